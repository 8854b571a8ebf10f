"""E-process for "no set of cells is more frequent than the reference allows", for mixes of many kinds of row.

Bounds on each of a hundred cells at once add up to far more than 1 and find nothing: so what is bet on is one set of
cells, chosen from earlier rows, against the bound of that set's frequency. A set's frequency needs no slack: only
cells that seem much more frequent are in it.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.drift.null_bounds import Floats, Ints, upper_bound
from finetune_platform.drift.wealth import Wealth

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

    def begin(self) -> Wealth:
        """The bettors before any row."""
        return Wealth.none(len(FORGETTING), len(self.counts))

    def bet(self, wealth: Wealth, rows: Ints) -> Wealth:
        """The bettors after a tick whose rows lie in these cells."""
        return wealth.after(rows, FORGETTING, self._won)

    def exceeding(self, known: Floats) -> npt.NDArray[np.bool_]:
        """Which cells seem more frequent by `EXCESS` and by `DEVIATIONS`; of `(…, cells)` counts the same shape."""
        held = np.maximum(self.expected * self.rows, 1.0)
        return self._guess(known) > self.expected * np.maximum(EXCESS, 1.0 + DEVIATIONS / np.sqrt(held))

    def _guess(self, known: Floats) -> Floats:
        guess: Floats = (known + PRIOR_ROWS * self.expected) / (known.sum(axis=-1, keepdims=True) + PRIOR_ROWS)
        return guess

    def _won(self, known: Floats, seen: Ints) -> float:
        chosen = self.exceeding(known)
        n = int(self.counts.sum())
        bounds = np.array([_bound(int(held), n, self.level) for held in chosen @ self.counts])
        guesses = np.minimum((self._guess(known) * chosen).sum(axis=1), 1.0 - 1e-9)
        bets = guesses > bounds
        inside = (seen * chosen).sum(axis=1)[bets]
        outside = seen.sum(axis=1)[bets] - inside
        guess, bound = guesses[bets], bounds[bets]
        return float((inside * np.log(guess / bound) + outside * np.log((1.0 - guess) / (1.0 - bound))).sum())


@lru_cache(maxsize=4096)
def _bound(count: int, n: int, level: float) -> float:
    return upper_bound(count, n, level, slack=0.0)
