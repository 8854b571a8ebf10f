"""How far people agree: Krippendorff's alpha with its interval, Cohen's kappa of pairs, what they confuse.

Pure numbers on what was said; who waits for them stands in `figures.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Answers = Mapping[str, str]
"""Of one item: reviewer to answer."""

RESAMPLES = 2000
LEVEL = 0.95
MOST_CONFUSIONS = 20


class Alpha(NamedTuple):
    """Krippendorff's alpha of `items` items that two people or more answered, with its 95% interval.

    All three are None where nothing can be said: no item was answered twice, or nobody ever gave another answer.
    """

    value: float | None
    lower: float | None
    upper: float | None
    items: int


class Kappa(NamedTuple):
    """Cohen's kappa of two people over the items that both answered; None where chance alone explains everything."""

    first: str
    second: str
    value: float | None
    agree: float
    items: int


class Confusion(NamedTuple):
    """Two answers given to the same item, `times` times."""

    one: str
    other: str
    times: int


def alpha_of(items: Sequence[Answers], seed: int = 0) -> Alpha:
    """Krippendorff's alpha for nominal data, with a bootstrap interval over items.

    Alpha is 1 minus observed over expected disagreement, both from the coincidences of answers within items; items
    with one answer say nothing. Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability". The interval
    takes items with replacement, which holds its level better than Krippendorff's own resampling of deviations: Zapf,
    Castell, Morawietz & Karch 2016, BMC Medical Research Methodology 16:93.

    Args:
        items: Answers as they are to be compared, an entry an item.
        seed: Of the bootstrap.
    """
    paired = [list(answers.values()) for answers in items if len(answers) > 1]
    if not paired:
        return Alpha(None, None, None, 0)
    codes = {answer: i for i, answer in enumerate(sorted({answer for answers in paired for answer in answers}))}
    counts = np.zeros((len(paired), len(codes)))
    for row, answers in enumerate(paired):
        for answer in answers:
            counts[row, codes[answer]] += 1
    sizes = counts.sum(axis=1)
    disagreeing = (sizes**2 - (counts**2).sum(axis=1)) / (sizes - 1)
    value = float(_alphas(disagreeing.sum()[None], counts.sum(axis=0)[None])[0])
    if np.isnan(value):
        return Alpha(None, None, None, len(paired))
    weights = np.random.default_rng(seed).multinomial(len(paired), np.full(len(paired), 1 / len(paired)), RESAMPLES)
    # A resample in which everybody says the same knows no disagreement at all.
    drawn = np.nan_to_num(_alphas(weights @ disagreeing, weights @ counts), nan=1.0)
    lower, upper = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Alpha(value, float(lower), float(upper), len(paired))


def _alphas(disagreeing: Floats, totals: Floats) -> Floats:
    """Alpha of each row of `totals`, how often each answer was given; nan where only one was."""
    n = totals.sum(axis=1)
    expected = (n**2 - (totals**2).sum(axis=1)) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        alphas: Floats = np.where(expected > 0, 1 - disagreeing / expected, np.nan)
    return alphas


def kappas_of(items: Sequence[Answers]) -> list[Kappa]:
    """Cohen's kappa of every two people who answered an item together, those with most items first."""
    together: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for answers in items:
        for first, second in combinations(sorted(answers), 2):
            together.setdefault((first, second), []).append((answers[first], answers[second]))
    found = [_kappa(first, second, pairs) for (first, second), pairs in together.items()]
    return sorted(found, key=lambda kappa: (-kappa.items, kappa.first, kappa.second))


def _kappa(first: str, second: str, pairs: Sequence[tuple[str, str]]) -> Kappa:
    n = len(pairs)
    agree = sum(one == other for one, other in pairs) / n
    ones, others = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    chance = sum(ones[answer] * others[answer] for answer in ones) / n**2
    return Kappa(first, second, None if chance == 1 else (agree - chance) / (1 - chance), agree, n)


def confusions_of(items: Sequence[Answers]) -> list[Confusion]:
    """What people confuse: pairs of different answers to one item, the most frequent first."""
    pairs = Counter(
        (min(one, other), max(one, other))
        for answers in items
        for one, other in combinations(answers.values(), 2)
        if one != other
    )
    return [Confusion(one, other, count) for (one, other), count in pairs.most_common(MOST_CONFUSIONS)]
