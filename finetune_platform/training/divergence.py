"""Whether a run has lost what it had learned: a rule over its loss curve, without knowing the data.

A loss that is not a number needs no rule and stops in `loop.py`; which checkpoint is then the good one is decided in
`checkpoints.py`, by `recent_loss`.
"""

from collections import deque
from collections.abc import Sequence

from finetune_platform.errors import PermanentError

WINDOW = 40
"""Steps over which a loss is judged."""

FIRST = 5
"""The mean of the first steps counts as a best too: a run can be lost before it has a window of good steps."""

LEAST_RISE, MOST_RISE = 1.0, 3.0
"""Nats a token. In between the loss must double; small losses double by chance, and large ones are lost before."""


class LossWatch:
    """The losses of a run, step by step; a resumed run is shown its log first."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._seen = 0
        self._best = float("inf")

    def see(self, loss: float) -> None:
        """Takes in the next step's loss, in nats a token.

        Raises:
            PermanentError: The run has diverged: even the better half of the last losses is far above their best mean
                so far. Half, because spikes of a few steps often pass by themselves.
        """
        self._recent.append(loss)
        self._seen += 1
        if self._seen == FIRST:
            self._best = sum(self._recent) / FIRST
        if self._seen < WINDOW:
            return
        steady = sum(sorted(self._recent)[: WINDOW // 2]) / (WINDOW // 2)
        mean = sum(self._recent) / WINDOW
        if steady > self._best + min(max(LEAST_RISE, self._best), MOST_RISE):
            raise PermanentError(
                f"training step {self._seen}: the run has diverged: the mean loss of the last {WINDOW} steps is "
                f"{mean:.2f} and had been {self._best:.2f}; the checkpoint with the lowest loss is kept",
                "lower training.stages[0].learning_rate or max_grad_norm, or raise warmup_ratio",
            )
        self._best = min(self._best, mean)


def recent_loss(losses: Sequence[float]) -> float:
    """What tells a good state of a run from a bad one: the mean of the last losses before it."""
    last = losses[-WINDOW:]
    return sum(last) / len(last)
