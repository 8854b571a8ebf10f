"""E-process for "the mean is not below a level", for scores that come in with every look.

What is scored and which level it is belongs in `performance.py`. A fixed 95% interval that is looked at every day would
be wrong some day of most years; this evidence may be looked at after every look, for ever.
"""

import math
from dataclasses import dataclass

import numpy as np

from finetune_platform.drift.null_bounds import Floats

BETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""What a bettor risks: this part of the stake that would be lost whole by the best possible score."""

RESTART_N = 100
"""Scores after which half of the reserve is staked, on the scale of its logarithm."""

_LARGEST_LOG = 690.0


@dataclass(frozen=True)
class LowerMean:
    """What bettors own who bet that the mean is below a level.

    A bet b multiplies a stake by `1 + b (level - score)` for each score. Where the mean is at least `level` its
    expectation is at most 1, so the whole is a supermartingale that begins at 1, and reaches 1/alpha at any look with
    probability alpha at most (Ville's inequality), however often one looks. Scores of one look may have different
    means, as weighted rows of different strata have: with one b for all of them the expectation of the product is at
    most that of equal means (the inequality of arithmetic and geometric means). That it reaches 1/alpha is the same as
    that the betting confidence sequence at alpha lies below the level. Source: Waudby-Smith & Ramdas 2023, "Estimating
    means of bounded random variables by betting", JRSS B 86:1.

    Half of the wealth is staked at once, the rest bit by bit as scores come, so that a mean that falls late is found
    too: a mixture over starting times, each part of which is a supermartingale.

    Attributes:
        log_stakes: Logarithm of the wealth of each of `BETS`.
        scores: How many were bet on.
    """

    log_stakes: tuple[float, ...] = (math.log(0.5 / len(BETS)),) * len(BETS)
    scores: int = 0

    @property
    def e_value(self) -> float:
        """Evidence against "not below": wealth from 1; never infinite."""
        return _reserve(self.scores) + math.fsum(math.exp(min(stake, _LARGEST_LOG)) for stake in self.log_stakes)

    def seen(self, scores: Floats, level: float, highest: float) -> "LowerMean":
        """The evidence after the scores of one look.

        Args:
            scores: Independent, `(rows,)`; their average expectation is what is compared with `level`.
            level: Known before the scores.
            highest: None of them can be above it; known before them, too.
        """
        bets = np.array(BETS) / (highest - level)
        factors = np.log1p(bets[:, None] * (level - scores[None, :])).sum(axis=1)
        after = self.scores + len(scores)
        fresh = (_reserve(self.scores) - _reserve(after)) / len(BETS)
        stakes = np.array(self.log_stakes) + factors
        # What is staked now bets from the next look on.
        return LowerMean(tuple(np.logaddexp(stakes, math.log(fresh) if fresh > 0 else -math.inf).tolist()), after)


def _reserve(scores: int) -> float:
    """Wealth not yet staked: it falls with the logarithm of the scores, so something is left however late."""
    return 0.5 / (1.0 + math.log1p(scores / RESTART_N))
