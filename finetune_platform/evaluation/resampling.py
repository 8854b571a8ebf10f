"""The paired cluster bootstrap: all sums of one slice resampled together, and BCa intervals from them.

Everything that is estimated is a ratio of column sums, or a difference of two such ratios. Rows come in groups
(near-duplicates, `group_id`); whole groups are drawn, and the same draw serves every arm and metric, which is what
makes the differences paired. Closed-form intervals of binary outcomes are in `intervals.py` and `paired.py`.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
SEED = 20_240_229
"""One fixed seed: the same answers give the same interval, to the last digit, on every machine."""

CHUNK_CELLS = 4_000_000
"""Most group counts in memory at once (32 MB)."""


class Interval(NamedTuple):
    """A two-sided interval; NaN where there is nothing to estimate from."""

    lower: float
    upper: float


def group_numbers(group_ids: npt.NDArray[np.str_]) -> tuple[npt.NDArray[np.intp], int]:
    """Numbers groups from 0: (number of each row's group, how many groups)."""
    names, numbers = np.unique(group_ids, return_inverse=True)
    return numbers, len(names)


def group_sums(values: Floats, groups: npt.NDArray[np.intp], count: int) -> Floats:
    """Sums of rows by group: (rows, columns) to (groups, columns)."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums


def resample(sums: Floats, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Column totals of bootstrap samples that draw as many groups as there are, with replacement.

    Args:
        sums: (groups, columns).
        resamples: How many samples.
        seed: Of the generator.

    Returns:
        (resamples, columns).
    """
    groups = len(sums)
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK_CELLS // max(groups, 1))
    totals = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, groups, size=(rows, groups))
        drawn += np.arange(rows)[:, None] * groups
        weights = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        totals.append(weights.astype(np.float64) @ sums)
    return np.concatenate(totals)


def leave_one_out(sums: Floats) -> Floats:
    """Column totals without each group in turn: (groups, columns)."""
    return sums.sum(axis=0) - sums


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise ratio, NaN for 0/0 (nothing to measure)."""
    out = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def expanded(alpha: float, groups: int) -> float:
    """The nominal error to ask of a bootstrap interval so that its real error is near `alpha` with few groups.

    A bootstrap distribution is narrower than the sampling one by sqrt((n − 1)/n) and knows no t quantiles.

    Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap", The American Statistician 69:371, section
    5.3 (expanded percentile intervals).
    """
    from scipy.special import stdtrit

    if groups < 2:
        return alpha
    widened = math.sqrt(groups / (groups - 1)) * float(stdtrit(groups - 1, 1 - alpha / 2))
    return max(2 * NormalDist().cdf(-widened), 1e-300)


def bca(estimate: float, replicates: Floats, jackknife: Floats, alpha: float) -> Interval:
    """Bias-corrected and accelerated bootstrap interval at level 1 − alpha.

    Args:
        estimate: The statistic of the sample.
        replicates: The statistic of each bootstrap sample, (resamples,); undefined ones (NaN) are left out.
        jackknife: The statistic without each group, (groups,).
        alpha: Two-sided error.

    Source: Efron 1987, "Better Bootstrap Confidence Intervals", JASA 82, eq. 6.5 to 6.8; ties count half in the bias
    correction, as in scipy.stats.bootstrap.
    """
    replicates = replicates[np.isfinite(replicates)]
    jackknife = jackknife[np.isfinite(jackknife)]
    if not np.isfinite(estimate) or len(replicates) == 0 or len(jackknife) < 2:
        return Interval(np.nan, np.nan)
    normal = NormalDist()
    share_below = float(np.mean(replicates < estimate) + np.mean(replicates <= estimate)) / 2
    edge = 0.5 / len(replicates)
    bias = normal.inv_cdf(min(max(share_below, edge), 1 - edge))
    deviations = jackknife.mean() - jackknife
    spread = float(np.sum(deviations**2))
    acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5) if spread > 0 else 0.0

    def level(z: float) -> float:
        shifted = bias + z
        return normal.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-9))

    z = -normal.inv_cdf(alpha / 2)
    lower, upper = np.quantile(replicates, [level(-z), level(z)])
    return Interval(float(lower), float(upper))
