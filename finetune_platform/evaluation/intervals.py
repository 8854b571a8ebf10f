"""Closed-form intervals of one proportion, and what near-duplicate rows do to its sample size.

Paired comparisons of two proportions are in `paired.py`, bootstrap intervals in `resampling.py`.
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from finetune_platform.evaluation.resampling import Floats, Interval, group_sums


def critical_value(alpha: float) -> float:
    """Standard normal quantile at 1 − alpha/2: 1.96 for alpha 0.05."""
    return NormalDist().inv_cdf(1 - alpha / 2)


def wilson(successes: float, n: float, alpha: float) -> Interval:
    """Score interval of a proportion; `n` may be an effective (fractional) sample size.

    Source: Wilson 1927, JASA 22:209; recommended by Brown, Cai & DasGupta 2001, Statistical Science 16:101.
    """
    if n <= 0:
        return Interval(math.nan, math.nan)
    z = critical_value(alpha)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def zero_count_bound(n: float, alpha: float) -> float:
    """Upper bound of a rate of which none was seen in `n`: −ln(alpha)/n, the "rule of three" at alpha 0.05.

    Source: Hanley & Lippman-Hand 1983, "If nothing goes wrong, is everything all right?", JAMA 249:1743.
    """
    return min(1.0, -math.log(alpha) / n) if n > 0 else 1.0


def rows_for_zero_count(rate: float, alpha: float) -> int:
    """Rows without a single failure that show a rate of at most `rate`: 150 for 0.02 at alpha 0.05."""
    return math.ceil(-math.log(alpha) / rate) if rate > 0 else 0


def proportion(successes: float, n: float, alpha: float) -> Interval:
    """Wilson's interval, or the rule of three's where all rows agree.

    Where none (or all) of the rows succeeded only one side is uncertain, and it gets the whole error.
    """
    if n > 0 and successes <= 0:
        return Interval(0.0, zero_count_bound(n, alpha))
    if n > 0 and successes >= n:
        return Interval(1.0 - zero_count_bound(n, alpha), 1.0)
    return wilson(successes, n, alpha)


def effective_rows(values: Floats, groups: npt.NDArray[np.intp], count: int) -> float:
    """How many independent rows the mean of `values` is worth: n / design effect, at most n.

    Args:
        values: One value a row, (rows,).
        groups: Number of each row's group, (rows,).
        count: Number of groups.

    Source: design effect by Kish 1965, "Survey Sampling", section 5.4, with the linearised variance between groups; in
    a score interval as compared by Franco et al. 2019, J. Survey Statistics and Methodology 7:334.
    """
    n = len(values)
    if count == n or count < 2:
        return float(count)
    deviations = values - values.mean()
    independent = float(np.sum(deviations**2)) / (n * (n - 1))
    if independent == 0:
        return float(count)  # Without variance nothing tells how alike a group's rows are: take them as one.
    sums = group_sums(deviations[:, None], groups, count)[:, 0]
    clustered = count / (count - 1) * float(np.sum(sums**2)) / n**2
    return n / max(1.0, clustered / independent)
