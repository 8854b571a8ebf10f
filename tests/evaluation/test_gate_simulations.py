"""The promises of evidence.md §5 in simulation: coverage, A/A failures, power at the printed effect.

A small version of `bench/evidence.py gates`, with the same code and fixed seeds.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import gate_simulations as simulated

ROWS, SIMULATIONS, RESAMPLES = 230, 300, 2000
EQUAL = simulated.World(candidate=0.4, reference=0.4, resamples=RESAMPLES)
ALIKE = simulated.World(candidate=0.4, reference=0.4, copied=0.95, resamples=RESAMPLES)


def test_intervals_cover_the_truth() -> None:
    covered = simulated.coverage(simulated.World(0.5, 0.3, resamples=RESAMPLES), ROWS, 2 * SIMULATIONS, seed=3)
    assert len(covered) == 6
    assert min(covered.values()) >= 0.93, covered


@pytest.mark.parametrize("world", [EQUAL, ALIKE], ids=["independent", "nearly the same answers"])
def test_equal_arms_seldom_fail_and_seldom_pass_as_better(world: simulated.World) -> None:
    rates = simulated.gate_rates(world, simulated.no_worse_gates(0.0, 0.03), ROWS, SIMULATIONS)
    assert max(r.failed for r in rates.values()) <= 0.05, rates
    assert max(r.passed for name, r in rates.items() if name.endswith("margin 0")) <= 0.05, rates


@pytest.mark.parametrize("metric", ["exact_match", "entity_f1"])
def test_a_true_effect_of_the_printed_size_is_found_four_times_of_five(metric: str) -> None:
    noise = 2 * (0.8 * 0.2 / SIMULATIONS) ** 0.5
    assert simulated.power_of_comparison(EQUAL, metric, ROWS, SIMULATIONS).passed >= 0.8 - noise
    assert simulated.power_of_threshold(EQUAL, metric, ROWS, SIMULATIONS).passed >= 0.8 - noise
