"""E-process for "no category is more frequent than the reference allows".

Which categories there are, and which row is of which, belongs in `channels.py`.
"""

from typing import NamedTuple

import numpy as np

from finetune_platform.drift.null_bounds import Floats, Ints, upper_bounds
from finetune_platform.drift.wealth import Wealth

FORGETTING = (0.0, 0.7, 0.95)
"""What each bettor keeps of its counts from tick to tick: one sees this tick alone, one the last weeks."""

PRIOR_ROWS = 30.0
"""Rows that the reference weighs in a bettor's guess."""


class BinNull(NamedTuple):
    """What the reference says of a channel: how frequent its categories are, and how frequent they may be.

    Each bettor guesses the categories' frequencies from earlier rows and multiplies its wealth by guess over null, for
    the member of the null that is nearest to its guess: `growth_rates`.
    """

    expected: Floats
    upper: Floats

    @classmethod
    def of(cls, counts: Ints, level: float) -> "BinNull":
        """From the counts of the reference's held-out half.

        Args:
            counts: `(categories,)`.
            level: Probability that one of the bounds is too low.
        """
        return cls((counts + 0.5) / (counts.sum() + 0.5 * len(counts)), upper_bounds(counts, level))

    def begin(self) -> Wealth:
        """The bettors before any row."""
        return Wealth.none(len(FORGETTING), len(self.expected))

    def bet(self, wealth: Wealth, rows: Ints) -> Wealth:
        """The bettors after a tick whose rows are of these categories."""
        return wealth.after(rows, FORGETTING, self._won)

    def _won(self, known: Floats, seen: Ints) -> float:
        guesses = (known + PRIOR_ROWS * self.expected) / (known.sum(axis=1, keepdims=True) + PRIOR_ROWS)
        return float((seen * np.log(growth_rates(guesses, self.upper))).sum())


def growth_rates(guesses: Floats, upper: Floats) -> Floats:
    """What a bettor's wealth is multiplied by for a row of each category.

    `guess / p`, where p is what minimises the Kullback-Leibler divergence to `guess` among all distributions that keep
    `upper` (the reverse information projection): p = min(guess / v, upper) with v such that p sums to 1. Its
    expectation is then at most 1 under each of these distributions, and no other bet grows faster if the guess is right
    (Grünwald, de Heide & Koolen 2024, "Safe testing", JRSS B 86:1091, theorem 1). A guess that keeps the bounds bets
    nothing.

    Args:
        guesses: Of several bets, `(bets, categories)`, each row's sum 1.
        upper: Bounds of the null, `(categories,)`.

    Returns:
        `(bets, categories)`.
    """
    ratio = guesses / upper
    order = np.argsort(-ratio, axis=1)
    sorted_ratio = np.take_along_axis(ratio, order, axis=1)
    # With the first j categories at their bounds the others share what is left in proportion to the guess.
    bounded = np.cumsum(upper[order], axis=1)
    free = 1.0 - np.cumsum(np.take_along_axis(guesses, order, axis=1), axis=1)
    scales = np.clip(free, 0.0, None) / np.clip(1.0 - bounded, 1e-12, None)
    ratio_of_next = np.concatenate([sorted_ratio[:, 1:], np.zeros((len(ratio), 1))], axis=1)
    first = np.argmax(scales >= ratio_of_next, axis=1)  # the last one always is
    rates = np.maximum(scales[np.arange(len(scales)), first][:, None], ratio)
    return np.where(sorted_ratio[:, :1] <= 1.0, 1.0, rates)
