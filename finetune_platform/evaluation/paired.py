"""Two arms on the same rows with outcomes 0 or 1: McNemar's test and the interval that agrees with it."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from finetune_platform.evaluation.intervals import critical_value
from finetune_platform.evaluation.resampling import Floats, Interval

BISECTIONS = 60


def mcnemar(wins: npt.NDArray[np.int_], mid_p: bool = True) -> float:
    """Two-sided p-value that neither arm is better, conditional on the discordant groups.

    Under the null each group's net result could as well have the other sign. The distribution of the total over all
    sign flips is computed exactly; with one row a group this is McNemar's exact (binomial) test.

    Args:
        wins: Rows that the first arm wins minus rows that it loses, by group, (groups,).
        mid_p: Count the observed result half: 5% of null results are then near 5%, instead of well below.

    Source: McNemar 1947, Psychometrika 12:153; mid-p by Fagerland, Lydersen & Laake 2013, BMC Medical Research
    Methodology 13:91.
    """
    sizes = np.abs(wins[wins != 0])
    if len(sizes) == 0:
        return 1.0
    observed, reach = abs(int(wins.sum())), int(sizes.sum())
    singles = int((sizes == 1).sum())
    chances = np.zeros(2 * reach + 1)
    chances[reach - singles : reach + singles + 1 : 2] = _fair_coins(singles)
    for size in sizes[sizes > 1].tolist():
        # np.roll wraps nothing: the outermost `size` cells are still empty.
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    totals = np.abs(np.arange(-reach, reach + 1))
    more, equal = float(chances[totals > observed].sum()), float(chances[totals == observed].sum())
    return min(1.0, more + (equal / 2 if mid_p else equal))


def _fair_coins(n: int) -> Floats:
    """Binomial(n, 1/2) probabilities of 0 to n."""
    logs = np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))
    factorial = np.concatenate([[0.0], logs])
    return np.exp(factorial[n] - factorial - factorial[::-1] - n * math.log(2))


def tango(wins: float, losses: float, n: float, alpha: float) -> Interval:
    """Score interval of the difference of two paired proportions, wins/n − losses/n.

    It contains 0 exactly when McNemar's (uncorrected) test does not reject, and stays honest for few or no
    discordant rows.

    Args:
        wins: Rows where the first arm alone is right.
        losses: Rows where the second alone is.
        n: All rows. The three may be scaled to an effective sample size.
        alpha: Two-sided error.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17:891.
    """
    if n <= 0:
        return Interval(math.nan, math.nan)
    z, observed = critical_value(alpha), (wins - losses) / n
    return Interval(
        _crossing(-1.0, observed, lambda d: _score(wins, losses, n, d) > z),
        _crossing(1.0, observed, lambda d: _score(wins, losses, n, d) < -z),
    )


def _score(wins: float, losses: float, n: float, difference: float) -> float:
    """Standardised distance of the observed from a supposed difference (Tango 1998, eq. 3 and 5)."""
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    lost = max(0.0, (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n))
    variance = n * (2 * lost + difference * (1 - difference))
    distance = wins - losses - n * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _crossing(outside: float, inside: float, rejected: Callable[[float], bool]) -> float:
    """The difference between a rejected and an accepted one where the test changes its mind."""
    if not rejected(outside):
        return outside
    for _ in range(BISECTIONS):
        middle = (outside + inside) / 2
        if rejected(middle):
            outside = middle
        else:
            inside = middle
    return inside
