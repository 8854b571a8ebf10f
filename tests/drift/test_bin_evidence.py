"""Bets on categories: fair under whatever the reference allows, fast where one of them became frequent."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from finetune_platform.drift.bin_evidence import BinNull, growth_rates
from finetune_platform.drift.null_bounds import Floats
from finetune_platform.drift.wealth import Wealth

COUNTS = np.array([1250, 750, 250, 125, 75, 25, 12, 8, 5])


@st.composite
def guesses_with_bounds(draw: st.DrawFn) -> tuple[Floats, Floats]:
    size = draw(st.integers(2, 8))
    weights = st.lists(st.floats(0.001, 1.0), min_size=size, max_size=size)
    guess, base = np.array(draw(weights)), np.array(draw(weights))
    room = np.array(draw(st.lists(st.floats(1.0, 4.0), min_size=size, max_size=size)))
    return guess / guess.sum(), np.minimum(1.0, base / base.sum() * room)


@given(guesses_with_bounds(), st.randoms(use_true_random=False))
def test_a_bet_is_fair_under_every_distribution_within_the_bounds(case: tuple[Floats, Floats], random: object) -> None:
    guess, upper = case
    rates = growth_rates(guess[None], upper)[0]
    assert (rates > 0).all()
    # The worst of them: as much as is allowed of what pays best, and so on. A linear programme's solution.
    left, expected = 1.0, 0.0
    for category in np.argsort(-rates):
        mass = min(left, float(upper[category]))
        expected, left = expected + mass * float(rates[category]), left - mass
    assert expected <= 1.0 + 1e-9


@given(guesses_with_bounds())
def test_no_bet_is_made_on_what_the_reference_allows(case: tuple[Floats, Floats]) -> None:
    _, upper = case
    allowed = upper / upper.sum()
    assert growth_rates(allowed[None], upper)[0] == pytest.approx(np.ones(len(upper)))


def test_the_bet_grows_as_fast_as_a_numerical_optimum() -> None:
    guess, upper = np.array([0.3, 0.3, 0.25, 0.15]), np.array([0.7, 0.4, 0.1, 0.05])
    nearest = minimize(
        lambda p: float(guess @ np.log(guess / p)),
        x0=np.array([0.6, 0.3, 0.07, 0.03]),
        bounds=[(1e-9, bound) for bound in upper],
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
    )
    assert float(guess @ np.log(growth_rates(guess[None], upper)[0])) == pytest.approx(nearest.fun, rel=1e-4)


def test_a_category_that_becomes_frequent_is_found_at_once() -> None:
    null, rng = BinNull.of(COUNTS, 0.02), np.random.default_rng(0)
    now = 0.9 * COUNTS / COUNTS.sum()
    now[-1] += 0.1
    assert null.bet(null.begin(), rng.choice(9, 200, p=now)).e_value > 1e4


def test_a_change_late_is_found_as_soon_as_an_early_one() -> None:
    null, rng = BinNull.of(COUNTS, 0.02), np.random.default_rng(0)
    evidence = null.begin()
    for _ in range(300):
        evidence = null.bet(evidence, rng.choice(9, 200, p=COUNTS / COUNTS.sum()))
    assert evidence.e_value < 100
    now = 0.9 * COUNTS / COUNTS.sum()
    now[-1] += 0.1
    assert null.bet(evidence, rng.choice(9, 200, p=now)).e_value > 1e4


def test_a_tick_without_rows_changes_nothing() -> None:
    null = BinNull.of(COUNTS, 0.02)
    evidence = null.bet(null.begin(), np.array([8] * 12))
    assert null.bet(evidence, np.array([], dtype=np.int64)).e_value >= evidence.e_value


def test_the_state_is_json_of_a_size_that_does_not_grow() -> None:
    null, rng = BinNull.of(COUNTS, 0.02), np.random.default_rng(1)
    evidence = null.begin()
    for _ in range(50):
        evidence = null.bet(evidence, rng.choice(9, 200, p=COUNTS / COUNTS.sum()))
    kept = json.loads(json.dumps(asdict(evidence)))
    again = Wealth(tuple(kept["logs"]), tuple(tuple(row) for row in kept["counts"]))
    assert again == evidence and np.array(evidence.counts).shape == (3, 9)
