"""What the reference leaves open: how probable a category can be at most, given how often it was counted."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

SLACK = 0.1
"""A category that became more frequent by less than this share is no drift. Without it, 2,000 rows a day find out
within months that no reference is quite like the traffic of any year."""


def upper_bounds(counts: Ints, level: float) -> Floats:
    """Upper bounds of all categories' probabilities, right together with probability `1 - level`.

    One-sided Clopper-Pearson bounds at `level` over the number of categories (Clopper & Pearson 1934, Biometrika
    26:404; Bonferroni), raised by `SLACK`. Where the categories are intervals between quantiles of the same rows they
    are conservative: the exact bound of such an interval is that of one count less.

    Args:
        counts: Rows of the reference in each category, `(categories,)`.
        level: Probability that any of the bounds is too low.

    Returns:
        `(categories,)`, each in (0, 1].
    """
    return np.array([upper_bound(int(count), int(counts.sum()), level / len(counts)) for count in counts])


def upper_bound(count: int, n: int, level: float, slack: float = SLACK) -> float:
    """The bound of one category that was counted `count` times in `n` rows."""
    from scipy.stats import beta

    if count >= n:
        return 1.0
    return float(min(1.0, (1.0 + slack) * beta.ppf(1.0 - level, count + 1, n - count)))
