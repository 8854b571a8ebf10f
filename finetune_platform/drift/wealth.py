"""What bettors own and remember: the state of an e-process. What is bet, and on what, belongs in `bin_evidence.py` and
`cell_evidence.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_platform.drift.null_bounds import Floats, Ints

PARTS = 20
"""Parts of a tick; each is bet on with what the parts before it taught."""

SMALLEST_PART = 10

LARGEST_LOG = 600.0


@dataclass(frozen=True)
class Wealth:
    """Several bettors, who differ in how fast they forget.

    Before each tick a wealth below 1 is made 1 again, so that it finds a change whenever it comes: under the null the
    first time that the mean of such wealths reaches a limit L is, on average, no earlier than after L ticks (Shin,
    Ramdas & Rinaldo 2024, "E-detectors", NEJSDS 2:229).

    Attributes:
        logs: Logarithm of what each bettor owns.
        counts: Rows of each category that each bettor remembers; the cost of a tick does not depend on the history.
    """

    logs: tuple[float, ...]
    counts: tuple[tuple[float, ...], ...]

    @classmethod
    def none(cls, bettors: int, categories: int) -> "Wealth":
        """Before any row."""
        return cls((0.0,) * bettors, ((0.0,) * categories,) * bettors)

    @property
    def e_value(self) -> float:
        """What the bettors own on average; never infinite."""
        return float(np.exp(np.minimum(self.logs, LARGEST_LOG)).mean())

    def after(self, rows: Ints, keeps: Sequence[float], won: Callable[[Floats, Ints], float]) -> "Wealth":
        """The wealth after one tick.

        Args:
            rows: Category of each of the tick's rows, in an order that does not depend on them.
            keeps: What each bettor keeps of its counts from this tick to the next.
            won: Logarithm of what a bettor wins who counted so many rows before each part, and then sees these,
                `(parts, categories)` each.
        """
        seen = _parts(rows, len(self.counts[0]))
        logs, counts = [], []
        for kept, owned, remembered in zip(keeps, self.logs, np.array(self.counts), strict=True):
            before = remembered + np.cumsum(seen, axis=0) - seen
            logs.append(max(owned, 0.0) + won(before, seen))
            counts.append(tuple((kept * (remembered + seen.sum(axis=0))).tolist()))
        return Wealth(tuple(logs), tuple(counts))


def _parts(rows: Ints, categories: int) -> Ints:
    """How many of the rows are of each category, part by part."""
    size = max(SMALLEST_PART, -(-len(rows) // PARTS))
    counts = np.zeros((-(-len(rows) // size), categories), dtype=np.int64)
    np.add.at(counts, (np.arange(len(rows)) // size, rows), 1)
    return counts
