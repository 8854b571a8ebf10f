"""The promises of evidence.md §6 in simulation: equal canaries stay, worse ones go before the second step.

A small version of `bench/evidence.py canary`, with the same code and fixed seeds.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import canary_simulations as simulated

from finetune_platform.task_serving import Rollout

SHORT = Rollout(steps=[5, 50, 100], hold_hours=24)
USUAL = simulated.World(tick_minutes=60.0, rollout=SHORT)


def test_an_equal_canary_is_seldom_rolled_back_and_mostly_promoted() -> None:
    world = replace(USUAL, swing=0.9, trend=0.1)
    found = simulated.rates(world, 40, seed=5)
    assert found.rolled_back <= 0.05, found
    assert found.promoted >= 0.9, found


@pytest.mark.parametrize(
    ("name", "changed", "canary_n"),
    [
        ("format", {"invalid_format": 0.15}, 200),
        ("latency", {"latency_ms": 1600.0}, 100),
        ("feedback", {"negative": 0.3}, 6000),
    ],
)
def test_a_worse_canary_is_taken_back_at_the_first_step(name: str, changed: dict[str, float], canary_n: int) -> None:
    found = simulated.rates(simulated.worse(USUAL, **changed), 20, seed=6)
    assert found.rolled_back_in_first_step >= 0.95, found
    assert found.canary_n_to_roll_back <= canary_n, found


def test_a_canary_that_turns_bad_at_half_of_the_traffic_is_taken_back_within_hours() -> None:
    world = replace(simulated.worse(USUAL, invalid_format=0.15), worse_from_hour=36.0)
    found = simulated.rates(world, 10, seed=7)
    assert found.rolled_back >= 0.95 and found.hours_to_roll_back <= 40, found
