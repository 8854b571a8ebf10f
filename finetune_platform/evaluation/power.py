"""The smallest true effect that a gate would find: what its number of rows can and cannot show.

An effect is a distance from the gate's limit, in the direction that passes. All are for the two-sided level alpha of
the printed interval and `POWER`. The decision itself is in `gates.py`.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

from finetune_platform.evaluation.intervals import critical_value, proportion

POWER = 0.8
BISECTIONS = 60


def effect_of_mean(standard_error: float, alpha: float) -> float:
    """(z_{1−alpha/2} + z_power) · SE: the effect found with `POWER` when the estimate is near normal.

    Args:
        standard_error: Observed standard deviation of the estimate.
        alpha: Two-sided error.

    Source: Cohen 1988, "Statistical Power Analysis", section 2; Card et al. 2020, "With Little Power Comes Great
    Responsibility", EMNLP, on why a report should print it.
    """
    return (critical_value(alpha) + NormalDist().inv_cdf(POWER)) * standard_error


def effect_of_pairs(discordance: float, n: float, alpha: float) -> float | None:
    """Smallest difference of two paired proportions that McNemar's test finds with `POWER`.

    Args:
        discordance: Share of rows on which the arms differ. An effect cannot exceed it, so a larger effect raises it.
        n: Rows, or effective rows.
        alpha: Two-sided error.

    Returns:
        None where no difference can be found with so few rows.

    Source: Connor 1987, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43:207, solved for the difference.
    """

    def found(effect: float) -> bool:
        share = max(discordance, effect)
        null, alternative = math.sqrt(share / n), math.sqrt(max(0.0, share - effect**2) / n)
        return effect >= critical_value(alpha) * null + NormalDist().inv_cdf(POWER) * alternative

    return _smallest(found) if n > 0 else None


def effect_of_proportion(threshold: float, n: float, alpha: float, higher: bool) -> float | None:
    """Smallest distance of a true rate from `threshold` that passes a gate on it with `POWER`.

    Args:
        threshold: What the rate must reach (`higher`) or stay under.
        n: Rows, or effective rows (rounded down).
        alpha: Two-sided error of the interval.
        higher: Which side passes.

    Returns:
        None where even a perfect result would not pass: too few rows for this threshold.

    Source: exact binomial power of the interval that `intervals.proportion` gives; P(X ≥ k) as an incomplete beta
    function (Abramowitz & Stegun 26.5.24).
    """
    from scipy.special import betaincinv

    rows, limit = math.floor(n), threshold if higher else 1 - threshold
    # By symmetry a rate under a limit is a success rate above the mirrored limit.
    passing = _fewest_successes(limit, rows, alpha)
    if passing is None:
        return None
    return max(0.0, float(betaincinv(passing, rows - passing + 1, POWER)) - limit)


def _fewest_successes(limit: float, rows: int, alpha: float) -> int | None:
    """Least successes of `rows` whose interval lies at or above `limit`."""
    if rows < 1 or proportion(rows, rows, alpha).lower < limit:
        return None
    too_few, enough = 0, rows
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if proportion(middle, rows, alpha).lower >= limit:
            enough = middle
        else:
            too_few = middle
    return enough


def _smallest(found: Callable[[float], bool]) -> float | None:
    low, high = 0.0, 1.0
    if not found(high):
        return None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if found(middle):
            high = middle
        else:
            low = middle
    return high
