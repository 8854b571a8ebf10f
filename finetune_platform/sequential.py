"""Statistics that may be looked at after every observation: e-processes and confidence sequences.

Pure numbers on counts: what the counts mean, and what is decided, stands where they are used, as in
`serving/rollout_rules.py`. Fixed-sample tests of evaluations are in `evaluation/`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ODDS_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 40.0)
"""Effects that are bet on. Under a true odds ratio below about 1.2 all bets lose in the long run: too small."""

BLOCK_N = 20
"""Observations of both arms together that one bet waits for: without it, ticks that saw one arm only would be lost."""

RESTART_N = 100
"""Observations of the suspect after which a reserve of 0.5 has fallen to 0.3: the scale of its logarithm."""

_LOG_ODDS = np.log(np.array(ODDS_RATIOS))
_FIRST_STAKE = math.log(0.5 / len(ODDS_RATIOS))
_LARGEST_LOG = 690.0


class Bounds(NamedTuple):
    """A closed interval."""

    lower: float
    upper: float


@dataclass(frozen=True)
class HigherRate:
    """E-process for "the suspect's rate of bad outcomes is not higher than the reference's".

    Under that null `e_value` is at most `limit` at all times with probability 1 - 1/limit (Ville's inequality), however
    the common rate moves from block to block, and whenever one looks. The mean of several is an e-process again.

    A bet on odds ratio r multiplies its stake by P_r(x)/P_1(x): the probability of the suspect's x bad outcomes given
    its n, the reference's n and the bad outcomes of both together, which is hypergeometric (Fisher's noncentral
    distribution under r). For equal rates the factor's expectation given that total is 1; the factor rises with x, and
    x rises stochastically with the true odds ratio, so the expectation is at most 1 where the suspect is better. Where
    arms are drawn at random it is exact for rates that differ from request to request. Source: Wald 1947, Sequential
    Analysis, chapter 6; Hao, Grünwald, Lardy, Long & Adams 2024, "E-values for k-sample tests with exponential
    families", Sankhya A, doi 10.1007/s13171-024-00339-9 (the conditional e-variable). It needs no guess of the common
    rate, unlike the unconditional one of Turner, Ly & Grünwald 2024, "Generic E-variables for exact sequential k-sample
    tests that allow for optional stopping", JSPI 230:106116, and finds as fast.

    Half of the wealth is staked at once, the rest bit by bit as the suspect is observed, so that a suspect that turns
    bad late is found too: a mixture over starting times, each part of which is a supermartingale.

    Attributes:
        log_stakes: Logarithm of the wealth on each of `ODDS_RATIOS`.
        suspect_n: Suspect's observations that bets were made on.
        pending: Counts (suspect n, bad, reference n, bad) that wait for a full block. When a block closes depends on
            the number of observations alone.
    """

    log_stakes: tuple[float, ...] = (_FIRST_STAKE,) * len(ODDS_RATIOS)
    suspect_n: int = 0
    pending: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def e_value(self) -> float:
        """Wealth from 1: evidence against the null; never infinite."""
        staked = math.fsum(math.exp(min(stake, _LARGEST_LOG)) for stake in self.log_stakes)
        return _reserve(self.suspect_n) + staked

    @property
    def best_return(self) -> float:
        """The best bet's worth over what was put into it: 1 before any; near 0 where no effect is plausible."""
        put_in = (1.0 - _reserve(self.suspect_n)) / len(ODDS_RATIOS)
        return math.exp(min(max(self.log_stakes), _LARGEST_LOG)) / put_in

    def seen(self, suspect_n: int, suspect_bad: int, reference_n: int, reference_bad: int) -> "HigherRate":
        """The evidence after both arms' outcomes of one tick; costs O(bad outcomes of a tick), not of the history."""
        n, bad, other_n, other_bad = self.pending
        block = (n + suspect_n, bad + suspect_bad, other_n + reference_n, other_bad + reference_bad)
        if block[0] + block[2] < BLOCK_N:
            return HigherRate(self.log_stakes, self.suspect_n, block)
        return self._bet(block[0], conditional_log_factors(*block))

    def seen_alone(self, suspect_n: int, suspect_bad: int, rate: float) -> "HigherRate":
        """The evidence after the suspect's outcomes where no reference answers any more.

        The null is then "the suspect's rate is at most `rate`": a likelihood ratio of yes/no outcomes, whose
        expectation rises with the true rate and is 1 at `rate` (Wald 1945, Annals of Mathematical Statistics 16:117).
        """
        if suspect_n == 0 or not 0.0 < rate < 1.0:
            return self
        odds = rate / (1.0 - rate) * np.array(ODDS_RATIOS)
        bet = odds / (1.0 + odds)
        good = suspect_n - suspect_bad
        return self._bet(suspect_n, suspect_bad * np.log(bet / rate) + good * np.log((1.0 - bet) / (1.0 - rate)))

    def _bet(self, suspect_n: int, log_factors: Floats) -> "HigherRate":
        after = self.suspect_n + suspect_n
        stakes = np.array(self.log_stakes)
        added = _reserve(self.suspect_n) - _reserve(after)
        if added > 0.0:
            stakes = np.logaddexp(stakes, math.log(added / len(stakes)))
        return HigherRate(tuple((stakes + log_factors).tolist()), after)


def conditional_log_factors(n: int, bad: int, other_n: int, other_bad: int) -> Floats:
    """log P_r(bad)/P_1(bad) for every r of `ODDS_RATIOS`, given both sizes and the total of bad outcomes.

    Zero where one arm has no outcome, or all outcomes are alike: no evidence.
    """
    total = bad + other_bad
    if n == 0 or other_n == 0 or total == 0 or total == n + other_n:
        return np.zeros(len(ODDS_RATIOS))
    x = np.arange(max(0, total - other_n), min(n, total) + 1, dtype=np.float64)
    steps = np.log((n - x[:-1]) * (total - x[:-1]) / ((x[:-1] + 1.0) * (other_n - total + x[:-1] + 1.0)))
    log_null = np.zeros(len(x))
    np.cumsum(steps, out=log_null[1:])
    tilted = log_null[:, None] + x[:, None] * _LOG_ODDS
    factors: Floats = bad * _LOG_ODDS - np.logaddexp.reduce(tilted) + np.logaddexp.reduce(log_null)
    return factors


def rate_bounds(n: int, total: float, alpha: float) -> Bounds:
    """Confidence sequence for the mean of outcomes in [0, 1]: contains it at all n at once with probability 1 - alpha.

    The rates at which prior over posterior is below 1/alpha, with Jeffreys' Beta(½, ½) prior: exact for independent
    yes/no outcomes of one rate, conservative for others in [0, 1] (their moment generating function is below
    Bernoulli's), and tight near 0 and 1. Only totals are needed. Source: Robbins 1970, Annals of Mathematical
    Statistics 41:1397; Waudby-Smith & Ramdas 2020, "Confidence sequences for sampling without replacement", NeurIPS 33
    (the prior-posterior-ratio martingale).

    Args:
        n: Outcomes so far.
        total: Their sum.
        alpha: Error probability.
    """
    limit = -math.log(alpha)
    return Bounds(_lower_rate(n, total, limit), 1.0 - _lower_rate(n, n - total, limit))


def difference_bounds(n: int, total: float, other_n: int, other_total: float, alpha: float) -> Bounds:
    """Confidence sequence for one mean minus another: each arm's at alpha/2, added (union bound).

    A joint confidence set projected on the difference is 15% tighter for equal arms and up to 25% wider for a small arm
    beside a large one, which is where a canary waits longest.
    """
    one, other = rate_bounds(n, total, alpha / 2), rate_bounds(other_n, other_total, alpha / 2)
    return Bounds(one.lower - other.upper, one.upper - other.lower)


def _lower_rate(n: int, total: float, limit: float) -> float:
    """Smallest rate whose log prior-posterior ratio is below `limit`, by bisection."""
    if n <= 0 or total <= 0:
        return 0.0
    rest = max(0.0, n - total)
    evidence = _log_beta(total + 0.5, rest + 0.5) - _log_beta(0.5, 0.5)
    low, high = 0.0, min(1.0, total / n)
    for _ in range(24):  # What is left of the bisection errs on the safe side.
        middle = (low + high) / 2
        if evidence - total * math.log(middle) - rest * math.log1p(-middle) < limit:
            high = middle
        else:
            low = middle
    return low


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _reserve(suspect_n: int) -> float:
    """Wealth not yet staked: it falls with the logarithm of the observations, so something is left however late."""
    return 0.5 / (1.0 + math.log1p(suspect_n / RESTART_N))
