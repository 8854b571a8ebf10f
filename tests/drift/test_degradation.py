"""Evidence that a mean is below a level: exact expectations, error rates over many looks, the fall that it finds."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from degradation_simulations import METRIC, Year
from ppi_simulations import World

from finetune_platform.drift.degradation import LowerMean


@settings(max_examples=40, deadline=None)
@given(
    level=st.floats(0.05, 0.95),
    rates=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    before=st.lists(st.booleans(), max_size=6),
)
def test_no_look_gains_on_average_where_the_mean_is_at_the_level(
    level: float, rates: list[float], before: list[bool]
) -> None:
    """However different the rows of a look are: all outcomes of a look, by enumeration."""
    mean = float(np.mean(rates))
    if mean < level:
        rates = [1.0 - (1.0 - rate) * (1.0 - level) / (1.0 - mean) for rate in rates]
    begun = LowerMean().seen(np.array(before, dtype=float), level, 1.0) if before else LowerMean()
    expected = 0.0
    for outcome in itertools.product((0, 1), repeat=len(rates)):
        chance = float(np.prod([rate if one else 1 - rate for rate, one in zip(rates, outcome, strict=True)]))
        expected += chance * begun.seen(np.array(outcome, dtype=float), level, 1.0).e_value
    assert expected <= begun.e_value * (1 + 1e-9)


def test_it_begins_at_one_and_grows_only_below_the_level() -> None:
    assert LowerMean().e_value == pytest.approx(1.0)
    low, high = LowerMean(), LowerMean()
    for _ in range(40):
        low = low.seen(np.array([1.0, 0.0, 0.0, 1.0, 0.0]), 0.6, 1.0)
        high = high.seen(np.array([1.0, 1.0, 0.0, 1.0, 1.0]), 0.6, 1.0)
    assert low.e_value > 100 > 1 > high.e_value


def test_looks_at_every_score_seldom_ring_at_the_level_itself() -> None:
    rng, rung = np.random.default_rng(3), 0
    for _ in range(200):
        evidence, highest = LowerMean(), 0.0
        for _ in range(100):
            evidence = evidence.seen((rng.random(5) < 0.54).astype(float), 0.54, 1.0)
            highest = max(highest, evidence.e_value)
        rung += highest >= 20
    assert rung <= 10


def test_a_late_fall_is_found() -> None:
    rng, evidence = np.random.default_rng(1), LowerMean()
    for _ in range(200):
        evidence = evidence.seen((rng.random(10) < 0.9).astype(float), 0.8, 1.0)
    quiet = evidence.e_value
    for _ in range(40):
        evidence = evidence.seen((rng.random(10) < 0.6).astype(float), 0.8, 1.0)
    assert quiet < 1 and evidence.e_value > 1000


def test_years_without_a_change_are_quiet_and_a_fall_is_found() -> None:
    """A small `bench/evidence.py ppi`: daily looks, the chance in the baseline included."""
    assert not any(Year(World(), days=150, judged=20).alarms(seed) for seed in range(8))
    later = World(quality=(0.3,))
    fallen = [Year(World(), later, change=20, days=110, judged=20).alarms(seed) for seed in range(4)]
    assert all(20 <= alarms[METRIC] <= 100 for alarms in fallen)
