"""E-process for "no category is more frequent than the reference allows".

Which categories there are, and which row is of which, belongs in `channels.py`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from finetune_platform.drift.null_bounds import Floats, Ints, upper_bounds

FORGETTING = (0.0, 0.7, 0.95)
"""What each bettor keeps of its counts from tick to tick: one sees this tick alone, one the last weeks."""

PRIOR_ROWS = 30.0
"""Rows that the reference weighs in a bettor's guess."""

PARTS = 20
"""Parts of a tick; each is bet on with what the parts before it taught."""

SMALLEST_PART = 10

LARGEST_LOG = 600.0


class Null(NamedTuple):
    """What the reference says of a channel: how frequent its categories are, and how frequent they may be."""

    expected: Floats
    upper: Floats

    @classmethod
    def of(cls, counts: Ints, level: float) -> "Null":
        """From the counts of the reference's held-out half.

        Args:
            counts: `(categories,)`.
            level: Probability that one of the bounds is too low.
        """
        return cls((counts + 0.5) / (counts.sum() + 0.5 * len(counts)), upper_bounds(counts, level))


@dataclass(frozen=True)
class BinEvidence:
    """Evidence that a category has become more frequent than `Null.upper`.

    Each bettor guesses the categories' frequencies from earlier rows and multiplies its wealth by guess over null, for
    the member of the null that is nearest to its guess: `growth_rates`. Before each tick a wealth below 1 is
    made 1 again, so that it finds a change whenever it comes: under the null the first time that the mean of such
    wealths reaches a limit L is, on average, no earlier than after L ticks (Shin, Ramdas & Rinaldo 2024, "E-detectors",
    NEJSDS 2:229).

    Attributes:
        log_wealth: Of each bettor.
        counts: What each bettor remembers, a row a bettor; the cost of a tick does not depend on the history.
    """

    log_wealth: tuple[float, ...]
    counts: tuple[tuple[float, ...], ...]

    @classmethod
    def none(cls, categories: int) -> "BinEvidence":
        """Before any row."""
        return cls((0.0,) * len(FORGETTING), ((0.0,) * categories,) * len(FORGETTING))

    @property
    def e_value(self) -> float:
        """Mean wealth of the bettors; never infinite."""
        return float(np.exp(np.minimum(self.log_wealth, LARGEST_LOG)).mean())

    def seen(self, null: Null, categories: Ints) -> "BinEvidence":
        """The evidence after one tick.

        Args:
            null: Of the channel.
            categories: Of the tick's rows, in an order that does not depend on them, `(rows,)`.
        """
        log_wealth, counts = [], []
        seen = parts(categories, len(null.expected))
        for keeps, wealth, remembered in zip(FORGETTING, self.log_wealth, self.counts, strict=True):
            known = known_before(np.array(remembered), seen)
            guesses = (known + PRIOR_ROWS * null.expected) / (known.sum(axis=1, keepdims=True) + PRIOR_ROWS)
            won = float((seen * np.log(growth_rates(guesses, null.upper))).sum())
            log_wealth.append(max(wealth, 0.0) + won)
            counts.append(tuple((keeps * (np.array(remembered) + seen.sum(axis=0))).tolist()))
        return BinEvidence(tuple(log_wealth), tuple(counts))


def parts(categories: Ints, size: int) -> Ints:
    """A tick in the parts that are bet on one after the other: rows of each category, `(parts, size)`."""
    rows = max(SMALLEST_PART, -(-len(categories) // PARTS))
    counts = np.zeros((-(-len(categories) // rows), size), dtype=np.int64)
    np.add.at(counts, (np.arange(len(categories)) // rows, categories), 1)
    return counts


def known_before(remembered: Floats, seen: Ints) -> Floats:
    """What a bettor has counted before each part of a tick, `(parts, size)`."""
    before: Floats = remembered + np.cumsum(seen, axis=0) - seen
    return before


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
