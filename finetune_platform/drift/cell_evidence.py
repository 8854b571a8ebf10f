"""E-process for "no set of cells is more frequent than the reference allows", for mixes of many kinds of row.

Bounds on each of a hundred cells at once add up to far more than 1 and find nothing: so what is bet on is one set of
cells, chosen from earlier rows, against the bound of that set's frequency. A set's frequency needs no slack: only
cells that seem much more frequent are in it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.drift.bin_evidence import LARGEST_LOG, known_before, parts
from finetune_platform.drift.null_bounds import Floats, Ints, upper_bound

FORGETTING = (0.8, 0.97)
PRIOR_ROWS = 150.0
EXCESS = 1.4
"""A cell is bet on that seems so many times as frequent as in the reference."""

DEVIATIONS = 3.0
"""And that seems more frequent by so many standard deviations of what the reference holds of it: of eighty cells some
are rare in it by chance, and would be bet on for ever."""


class CellNull(NamedTuple):
    """What the reference says of cells.

    Sets are chosen by comparing with one half, and bounded by the other: chosen by the half that bounds them, cells
    that it happens to hold too few of would be bet on for ever.

    Attributes:
        expected: Frequencies in the half that defines the cells, `(cells,)`.
        rows: Of that half.
        counts: Rows of the held-out half, `(cells,)`.
        level: Probability that the bound of a set is too low.
    """

    expected: Floats
    rows: int
    counts: Ints
    level: float

    @classmethod
    def of(cls, defining: Ints, held_out: Ints, level: float) -> "CellNull":
        """From both halves' counts, `(cells,)`."""
        return cls((defining + 0.5) / (defining.sum() + 0.5 * len(defining)), int(defining.sum()), held_out, level)


@dataclass(frozen=True)
class CellEvidence:
    """Evidence that some cells have become more frequent; `seen` and the attributes are as in `BinEvidence`."""

    log_wealth: tuple[float, ...]
    counts: tuple[tuple[float, ...], ...]

    @classmethod
    def none(cls, cells: int) -> "CellEvidence":
        """Before any row."""
        return cls((0.0,) * len(FORGETTING), ((0.0,) * cells,) * len(FORGETTING))

    @property
    def e_value(self) -> float:
        """Mean wealth of the bettors; never infinite."""
        return float(np.exp(np.minimum(self.log_wealth, LARGEST_LOG)).mean())

    def seen(self, null: CellNull, cells: Ints) -> "CellEvidence":
        """The evidence after one tick, whose rows lie in `cells`, `(rows,)`."""
        log_wealth, counts = [], []
        seen = parts(cells, len(null.counts))
        for keeps, wealth, remembered in zip(FORGETTING, self.log_wealth, self.counts, strict=True):
            won = _won(null, known_before(np.array(remembered), seen), seen)
            log_wealth.append(max(wealth, 0.0) + won)
            counts.append(tuple((keeps * (np.array(remembered) + seen.sum(axis=0))).tolist()))
        return CellEvidence(tuple(log_wealth), tuple(counts))


def exceeding(null: CellNull, known: Floats) -> npt.NDArray[np.bool_]:
    """Which cells seem more frequent by `EXCESS` and by `DEVIATIONS`; of `(…, cells)` counts the same shape."""
    held = np.maximum(null.expected * null.rows, 1.0)
    return _guess(null, known) > null.expected * np.maximum(EXCESS, 1.0 + DEVIATIONS / np.sqrt(held))


def _guess(null: CellNull, known: Floats) -> Floats:
    guess: Floats = (known + PRIOR_ROWS * null.expected) / (known.sum(axis=-1, keepdims=True) + PRIOR_ROWS)
    return guess


def _won(null: CellNull, known: Floats, seen: Ints) -> float:
    """Logarithm of what the bets on each part win, `known` before it and `seen` in it, `(parts, cells)` each."""
    chosen = exceeding(null, known)
    n = int(null.counts.sum())
    bounds = np.array([_bound(int(held), n, null.level) for held in chosen @ null.counts])
    guesses = np.minimum((_guess(null, known) * chosen).sum(axis=1), 1.0 - 1e-9)
    bets = guesses > bounds
    inside = (seen * chosen).sum(axis=1)[bets]
    outside = seen.sum(axis=1)[bets] - inside
    guess, bound = guesses[bets], bounds[bets]
    return float((inside * np.log(guess / bound) + outside * np.log((1.0 - guess) / (1.0 - bound))).sum())


@lru_cache(maxsize=4096)
def _bound(count: int, n: int, level: float) -> float:
    return upper_bound(count, n, level, slack=0.0)
