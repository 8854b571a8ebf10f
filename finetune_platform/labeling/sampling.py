"""A random sample that holds every kind of row in proportion. What it is drawn for belongs to whoever asks."""

from collections.abc import Sequence

import numpy as np


def proportional(strata: Sequence[str], count: int, rng: np.random.Generator) -> list[int]:
    """Numbers of `count` rows, each row with the same probability `count / len(strata)`.

    Of each stratum come as many as its share says, rounded down or up at random. Rounding to the largest remainders
    instead would leave some strata without any chance, and no weight makes up for that. Rows stand in order of their
    strata, in each in random order; every n-th is taken, from a random start. Source: Madow & Madow 1944, "On the
    theory of systematic sampling", Annals of Mathematical Statistics 15:1.

    Args:
        strata: Of each row.
        count: Of rows to draw; all are drawn where there are no more.
    """
    n = len(strata)
    if count >= n:
        return list(range(n))
    chance = rng.random(n)
    order = sorted(range(n), key=lambda i: (strata[i], chance[i]))
    places = ((np.arange(count) + rng.random()) * n / count).astype(int)
    return sorted(order[place] for place in places)
