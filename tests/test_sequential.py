"""Anytime-valid statistics: exact expectations by enumeration, error rates and coverage by simulation."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from finetune_platform.sequential import (
    BLOCK_N,
    ODDS_RATIOS,
    HigherRate,
    conditional_log_factors,
    difference_bounds,
    rate_bounds,
)


def expected_factor(n: int, rate: float, other_n: int, other_rate: float) -> np.ndarray:
    """Mean of a block's factors over every outcome of both arms."""
    mean = np.zeros(len(ODDS_RATIOS))
    for bad in range(n + 1):
        for other_bad in range(other_n + 1):
            chance = math.comb(n, bad) * rate**bad * (1 - rate) ** (n - bad)
            chance *= math.comb(other_n, other_bad) * other_rate**other_bad * (1 - other_rate) ** (other_n - other_bad)
            mean += chance * np.exp(conditional_log_factors(n, bad, other_n, other_bad))
    return mean


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 6), other_n=st.integers(0, 9), rate=st.floats(0.01, 0.99), better=st.floats(0, 1))
def test_a_bet_gains_nothing_on_average_where_the_suspect_is_no_worse(
    n: int, other_n: int, rate: float, better: float
) -> None:
    assert expected_factor(n, rate, other_n, rate) == pytest.approx(1.0, abs=1e-9)
    assert (expected_factor(n, rate * better, other_n, rate) <= 1 + 1e-9).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_factors_agree_with_the_noncentral_hypergeometric_distribution(
    n: int, other_n: int, data: st.DataObject
) -> None:
    bad, other_bad = data.draw(st.integers(0, n)), data.draw(st.integers(0, other_n))
    total, whole = bad + other_bad, n + other_n
    factors = conditional_log_factors(n, bad, other_n, other_bad)
    for ratio, factor in zip(ODDS_RATIOS, factors, strict=True):
        tilted = stats.nchypergeom_fisher.logpmf(bad, whole, total, n, ratio)
        assert factor == pytest.approx(tilted - stats.hypergeom.logpmf(bad, whole, total, n), rel=1e-5, abs=1e-5)


def test_arms_without_outcomes_are_no_evidence() -> None:
    assert HigherRate().e_value == pytest.approx(1.0)
    for counts in ((0, 0, 500, 30), (500, 30, 0, 0), (50, 0, 900, 0), (50, 50, 900, 900)):
        assert HigherRate().seen(*counts).e_value == pytest.approx(1.0), counts
    assert HigherRate().seen_alone(0, 0, 0.1).e_value == pytest.approx(1.0)
    assert HigherRate().seen_alone(50, 50, 1.0).e_value == pytest.approx(1.0)


def test_single_outcomes_are_gathered_into_blocks() -> None:
    one_by_one = HigherRate()
    for _ in range(BLOCK_N // 2 - 1):
        one_by_one = one_by_one.seen(1, 1, 0, 0).seen(0, 0, 1, 0)
        assert one_by_one.e_value == pytest.approx(1.0)
    one_by_one = one_by_one.seen(1, 1, 0, 0).seen(0, 0, 1, 0)
    assert one_by_one == HigherRate().seen(BLOCK_N // 2, BLOCK_N // 2, BLOCK_N // 2, 0)
    assert one_by_one.e_value > 100


def stream(
    generator: np.random.Generator, rates: list[float], other_rates: list[float], share: float, block: int = 30
) -> list[float]:
    """E-values after every block of one stream."""
    evidence, values = HigherRate(), []
    for rate, other_rate in zip(rates, other_rates, strict=True):
        n = int(generator.binomial(block, share))
        bad, other_bad = generator.binomial(n, rate), generator.binomial(block - n, other_rate)
        evidence = evidence.seen(n, int(bad), block - n, int(other_bad))
        values.append(evidence.e_value)
    return values


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_equal_rates_seldom_reach_the_limit_however_they_drift(share: float) -> None:
    drifting = (0.15 + 0.14 * np.sin(np.arange(200) / 15)).tolist()
    crossed = sum(max(stream(g, drifting, drifting, share)) >= 10 for g in np.random.default_rng(1).spawn(120))
    assert crossed / 120 <= 0.1


def test_a_suspect_that_turns_worse_late_is_found_nearly_as_soon() -> None:
    """Without wealth kept in reserve the bets would have lost everything by then."""
    after = []
    for generator in np.random.default_rng(2).spawn(9):
        values = stream(generator, [0.05] * 1000 + [0.15] * 400, [0.05] * 1400, share=0.5)
        assert max(values[:1000]) < 100
        after.append(next(i for i, value in enumerate(values) if value >= 100) - 1000)
    assert np.median(after) * 15 < 600


def test_the_best_bet_fades_where_rates_are_equal_and_grows_where_not() -> None:
    def ratio_after(bad: int) -> float:
        return HigherRate().seen(1000, bad, 1000, 100).best_return

    assert HigherRate().best_return == pytest.approx(1.0)
    assert ratio_after(100) < 0.5 < ratio_after(120)
    assert ratio_after(80) < ratio_after(100)


def test_alone_it_compares_to_the_rate_that_it_is_given() -> None:
    generator = np.random.default_rng(3)
    crossed = 0
    for _ in range(300):
        evidence = HigherRate()
        for bad in generator.binomial(20, 0.1, 100).tolist():
            evidence = evidence.seen_alone(20, bad, 0.1)
            if evidence.e_value >= 10:
                crossed += 1
                break
    assert crossed / 300 <= 0.1
    assert HigherRate().seen_alone(200, 50, 0.1).e_value > 1000
    assert HigherRate().seen_alone(200, 10, 0.1).e_value < 1


def test_overwhelming_evidence_stays_a_finite_number_and_survives_json() -> None:
    evidence = HigherRate().seen(50_000, 50_000, 50_000, 0).seen(3, 1, 4, 0)
    assert math.isfinite(evidence.e_value)
    stored = json.loads(json.dumps(asdict(evidence), allow_nan=False))
    assert HigherRate(tuple(stored["log_stakes"]), stored["suspect_n"], tuple(stored["pending"])) == evidence


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99, 1.0])
def test_confidence_sequences_contain_the_rate_at_all_times(rate: float) -> None:
    generator = np.random.default_rng(4)
    missed = 0
    for _ in range(200):
        totals = np.cumsum(generator.random(400) < rate)
        bounds = [rate_bounds(n, int(totals[n - 1]), 0.05) for n in range(1, 401, 3)]
        missed += any(not b.lower - 1e-6 <= rate <= b.upper + 1e-6 for b in bounds)
    assert missed / 200 <= 0.05


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5000), st.floats(0, 1))
def test_bounds_enclose_the_mean_and_mirror(n: int, share: float) -> None:
    total = round(n * share)
    bounds, mirrored = rate_bounds(n, total, 0.05), rate_bounds(n, n - total, 0.05)
    assert 0 <= bounds.lower <= bounds.upper <= 1
    if n:
        assert bounds.lower <= total / n <= bounds.upper
    assert (bounds.lower, bounds.upper) == pytest.approx((1 - mirrored.upper, 1 - mirrored.lower))


def test_bounds_solve_the_ratio_of_prior_to_posterior() -> None:
    lower, upper = rate_bounds(300, 282, 0.05)
    for rate in (lower, upper):
        prior, posterior = stats.beta(0.5, 0.5), stats.beta(282.5, 18.5)
        assert prior.pdf(rate) / posterior.pdf(rate) == pytest.approx(20, rel=0.001)


def test_differences_are_bounded_as_tightly_as_a_rollout_needs() -> None:
    assert difference_bounds(0, 0, 0, 0, 0.05) == (-1, 1)
    nearly_perfect = difference_bounds(300, 297, 5700, 5643, 0.05)
    assert -0.05 < nearly_perfect.lower < 0 < nearly_perfect.upper < 0.03
    assert difference_bounds(1500, 1200, 1500, 1350, 0.05).upper < 0
    swapped = difference_bounds(1500, 1350, 1500, 1200, 0.05)
    assert swapped.lower == pytest.approx(-difference_bounds(1500, 1200, 1500, 1350, 0.05).upper)
