"""The mean of a score that few rows have, with the help of a judge who scored many: prediction-powered inference.

Which rows these are and what the mean is compared with belongs in `performance.py`; evidence that may be looked at
every day in `degradation.py`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.drift.null_bounds import Floats
from finetune_platform.sequential import Bounds, rate_bounds

Mask = npt.NDArray[np.bool_]

FEW_LABELS = 30
"""With fewer labels no variance can be relied on: a betting confidence sequence of the labels alone is given."""

FEW_EVENTS = 5.0
"""Nor where the labels hold less of what is rare: of 100 answers with two failures, a judge that missed neither says
nothing of how many he misses."""

NO_SPREAD = 1e-12
"""A variance below is rounding: the judge said the same of all."""

LABELS_A_STRATUM = 50
"""Strata with fewer labels are taken together: a slope and a variance of a few rows fit their noise."""


class Labelled(NamedTuple):
    """Rows that were scored against an expert's label, drawn at random.

    Attributes:
        scores: In [0, 1], `(rows,)`.
        judged: What the judge says of them, any number that depends on question and answer alone; zeros without one.
        weights: One over the probability that the row was drawn.
        strata: Of each row.
    """

    scores: Floats
    judged: Floats
    weights: Floats
    strata: npt.NDArray[np.str_]


class Unlabelled(NamedTuple):
    """Rows without a label, drawn at random from the others of the same traffic.

    Attributes:
        judged: As of `Labelled`, `(rows,)`.
        weights: One over the probability that a row without a label was drawn: with the rows that have one they add up
            to the traffic.
        strata: Of each row.
    """

    judged: Floats
    weights: Floats
    strata: npt.NDArray[np.str_]


class Interval(NamedTuple):
    """An estimate of a mean.

    Attributes:
        standard_error: NaN where too few labels let nothing be said of it.
        method: "prediction-powered", "labels", or "betting" (a confidence sequence of the labels alone).
    """

    value: float
    standard_error: float
    lower: float
    upper: float
    method: str


class PoweredMean(NamedTuple):
    """A mean by labels and judge.

    Attributes:
        estimate: With the judge's help.
        labels_only: What the same labels say without him.
        slopes: By stratum, how much he is trusted: lambda. Strata that were taken together stand under "".
        labels: Rows with a label.
        judged: Rows without one that the judge scored.
    """

    estimate: Interval
    labels_only: Interval
    slopes: dict[str, float]
    labels: int
    judged: int


def prediction_powered_mean(labelled: Labelled, unlabelled: Unlabelled, alpha: float = 0.05) -> PoweredMean:
    """The mean score of the traffic that both samples come from.

    In each stratum `mean(lambda f) + mean(y - lambda f)`, the first over the rows without a label, the second over
    those with one: unbiased whatever the judge's scores f are. lambda = Cov(y, f) / ((1 + n/N) Var(f)) makes its
    variance least, so that a useless judge costs next to nothing. Means are weighted by `weights` (Hájek), n and N are
    Kish's effective sizes; strata count by their share of both samples. The interval is Wilson's for as many yes/no
    outcomes as would have the same standard error, with Student's quantile at Satterthwaite's degrees of freedom.
    Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++: Efficient prediction-powered inference", arXiv:2311.01453;
    strata: Fisch et al. 2024, "Stratified prediction-powered inference", NeurIPS 37.

    Args:
        labelled: One row at least.
        unlabelled: None of its rows is among `labelled`; may be empty.
        alpha: Error probability of the intervals.
    """
    strata = _strata(labelled.strata, unlabelled.strata)
    shares = _shares(labelled, unlabelled, strata)
    alone = labelled._replace(judged=np.zeros(len(labelled.scores)))
    powered = [_stratum(labelled, unlabelled, *masks) for masks in strata.values()]
    plain = [_stratum(alone, unlabelled, *masks) for masks in strata.values()]
    slopes = {name: part.slope for name, part in zip(strata, powered, strict=True)}
    method = "prediction-powered" if any(slopes.values()) else "labels"
    few = _too_few(labelled, shares, strata, alpha)
    return PoweredMean(
        few or _combined(powered, shares, alpha, method),
        few or _combined(plain, shares, alpha, "labels"),
        slopes,
        len(labelled.scores),
        len(unlabelled.judged),
    )


class _Part(NamedTuple):
    """One stratum's mean and lambda.

    Attributes:
        variance: Of the mean.
        rows: How many labelled rows of equal weight would be worth as much.
    """

    mean: float
    variance: float
    rows: float
    slope: float


_Masks = tuple[Mask, Mask]
"""Rows of the first and of the second sample."""


def _strata(labelled: npt.NDArray[np.str_], unlabelled: npt.NDArray[np.str_]) -> dict[str, _Masks]:
    """Which rows of both samples are of which stratum, the thin ones together."""
    counts = Counter(labelled.tolist())
    own = {name for name, count in counts.items() if count >= LABELS_A_STRATUM}
    thin = sum(count for name, count in counts.items() if name not in own)
    # Rows of strata without any label lean on the labels of the others, which must be enough.
    rest = bool(thin) or bool(set(unlabelled.tolist()) - own)
    while rest and own and thin < LABELS_A_STRATUM:
        smallest = min(own, key=lambda name: (counts[name], name))
        own.remove(smallest)
        thin += counts[smallest]
    masks = {name: (labelled == name, unlabelled == name) for name in sorted(own)}
    if rest:
        masks[""] = (~np.isin(labelled, sorted(own)), ~np.isin(unlabelled, sorted(own)))
    return masks


def _shares(labelled: Labelled, unlabelled: Unlabelled, strata: dict[str, _Masks]) -> list[float]:
    """Of the traffic: rows with a label stand for themselves, the others for what they were drawn from."""
    if len(unlabelled.judged):
        sizes = [float(ours.sum() + unlabelled.weights[others].sum()) for ours, others in strata.values()]
    else:
        sizes = [float(labelled.weights[ours].sum()) for ours, _ in strata.values()]
    return [size / sum(sizes) for size in sizes]


def _stratum(labelled: Labelled, unlabelled: Unlabelled, ours: Mask, others: Mask) -> _Part:
    y, f, w = labelled.scores[ours], labelled.judged[ours], _normed(labelled.weights[ours])
    g, v = unlabelled.judged[others], _normed(unlabelled.weights[others])
    slope = 0.0
    if len(g) and len(y) > 2:
        # Of the labelled rows, as the covariance is: a judge who is always right then gets the slope 1 exactly.
        spread = float(np.sum(w * (f - w @ f) ** 2))
        together = float(np.sum(w * (y - w @ y) * (f - w @ f)))
        # Below zero it is noise: nobody's judge prefers bad answers.
        slope = max(0.0, together / float((1.0 + (v @ v) / (w @ w)) * spread)) if spread > NO_SPREAD else 0.0
    rest = y - slope * f
    mean, variance = float(w @ rest), _variance(rest, w, 2 if slope else 1)
    if slope:
        mean, variance = mean + slope * float(v @ g), variance + slope**2 * _variance(g, v, 1)
    return _Part(mean, variance, float(1.0 / (w @ w)), slope)


def _normed(weights: Floats) -> Floats:
    return weights / weights.sum() if len(weights) else weights


def _variance(values: Floats, weights: Floats, fitted: int) -> float:
    """Of the weighted mean, by the jackknife: rows of large weight pull the mean towards themselves.

    Args:
        values: `(rows,)`.
        weights: Adding up to 1.
        fitted: Numbers that were taken from the same rows.
    """
    n = len(values)
    if n <= fitted:
        return math.nan
    without = weights / (1.0 - weights) * (values - weights @ values)
    return float(without @ without) * (n - 1) ** 2 / (n * (n - fitted))


def _combined(parts: Sequence[_Part], shares: Sequence[float], alpha: float, method: str) -> Interval:
    from scipy.special import stdtrit

    value = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    variances = [share**2 * part.variance for share, part in zip(shares, parts, strict=True)]
    # Satterthwaite's degrees of freedom (Biometrics Bulletin 2:110, 1946): a stratum that counts much and has few
    # labels makes the whole as uncertain as it is itself.
    spent = sum(v**2 / max(1.0, part.rows - 2.0) for v, part in zip(variances, parts, strict=True))
    freedom = sum(variances) ** 2 / spent if spent > 0 else 1e9
    value, error = min(max(value, 0.0), 1.0), math.sqrt(sum(variances))
    bounds = _wilson(value, error, float(stdtrit(freedom, 1.0 - alpha / 2)))
    return Interval(value, error, bounds.lower, bounds.upper, method)


def _wilson(value: float, error: float, z: float) -> Bounds:
    """Where `value` lies within `z` standard errors, for the errors that a yes/no outcome would have there."""
    if not 0.0 < value < 1.0:
        return Bounds(max(0.0, value - z * error), min(1.0, value + z * error))
    n = value * (1.0 - value) / error**2 if error > 0 else math.inf
    if math.isinf(n):
        return Bounds(value, value)
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Bounds(max(0.0, centre - half), min(1.0, centre + half))


def _too_few(labelled: Labelled, shares: Sequence[float], strata: dict[str, _Masks], alpha: float) -> Interval | None:
    """The betting interval where the labels are too few, or what is rare among them is."""
    n, rare = len(labelled.scores), min(labelled.scores.sum(), (1.0 - labelled.scores).sum())
    if n >= FEW_LABELS and rare >= FEW_EVENTS:
        return None
    weights = np.zeros(n)
    for share, (ours, _) in zip(shares, strata.values(), strict=True):
        weights[ours] = share * _normed(labelled.weights[ours])
    value, error = min(1.0, float(weights @ labelled.scores)), math.nan
    if n > 1:
        error = math.sqrt(_variance(labelled.scores, weights, 1))
    bounds = weighted_bounds(labelled.scores, weights * n, alpha)
    return Interval(value, error, bounds.lower, bounds.upper, "betting")


def weighted_bounds(scores: Floats, weights: Floats, alpha: float) -> Bounds:
    """Confidence sequence for the mean of independent scores in [0, 1] of which each counts `weights` times.

    `rate_bounds` of `weight * score / largest weight`, which lies in [0, 1] again. A bet on independent outcomes with
    different means grows, on average, no faster than one on outcomes that all have the mean of these means (the
    inequality of arithmetic and geometric means), so that unequal probabilities of being drawn do no harm. Source:
    Waudby-Smith & Ramdas 2023, "Estimating means of bounded random variables by betting", JRSS B 86:1.

    Args:
        scores: `(rows,)`.
        weights: Of mean 1, known before the scores.
        alpha: Error probability.
    """
    largest = float(weights.max())
    low = rate_bounds(len(scores), float(weights @ scores) / largest, alpha).lower * largest
    missed = rate_bounds(len(scores), float(weights @ (1.0 - scores)) / largest, alpha).lower * largest
    return Bounds(min(low, 1.0), max(1.0 - missed, 0.0))
