"""Whether a batch's labels may train: everything answered and decided, and people agree enough.

What starts then belongs in `sensors/`.
"""

from typing import Literal, NamedTuple

from finetune_platform.labeling.agreement import Alpha
from finetune_platform.labeling.batches import Batch
from finetune_platform.labeling.figures import Figures
from finetune_platform.labeling.items import comparable

MOST_NAMED = 3


class Readiness(NamedTuple):
    """`waiting` for people, `low_agreement`, or `ready`; `reason` in words."""

    state: Literal["waiting", "low_agreement", "ready"]
    reason: str


def readiness_of(batch: Batch, figures: Figures, min_agreement: float) -> Readiness:
    """Whether a batch may be closed and its labels used.

    Where items were answered twice, the lower bound of alpha must reach `min_agreement`. Where nobody ever gave a
    second answer to anything (no overlap was asked for), or everybody always said the same, alpha does not exist and
    nothing is held against the batch.
    """
    left = batch.states["open"] + batch.states["disputed"]
    if left:
        return Readiness("waiting", f"{left:,} of {len(batch.rows):,} rows are neither answered nor decided")
    alpha = figures.alpha
    if alpha.lower is not None and alpha.lower < min_agreement:
        confused = ", ".join(
            f'"{_short(c.one)}" and "{_short(c.other)}" ({c.times}x)' for c in figures.confusions[:MOST_NAMED]
        )
        return Readiness(
            "low_agreement",
            f"people agree too little: {alpha_in_words(alpha)} of {alpha.items:,} rows, whose lower bound is under "
            f"{min_agreement:g}; they confuse {confused}",
        )
    return Readiness("ready", f"{len(batch.rows):,} rows, {alpha_in_words(alpha)}")


def alpha_in_words(alpha: Alpha) -> str:
    """Agreement with its interval, or why there is none."""
    if alpha.value is None:
        return f"{alpha.items:,} rows answered twice, no disagreement" if alpha.items else "no row answered twice"
    return f"alpha {alpha.value:.2f} [{alpha.lower:.2f}, {alpha.upper:.2f}]"


def _short(answer: str) -> str:
    text = comparable(answer)
    return text if len(text) <= 40 else f"{text[:39]}…"
