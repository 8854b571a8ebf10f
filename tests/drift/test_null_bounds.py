"""Bounds of what a reference leaves open: right as often as they say, and the reference's size decides how wide."""

import numpy as np
import pytest
from scipy.stats import binomtest

from finetune_platform.drift.null_bounds import SLACK, upper_bound, upper_bounds


@pytest.mark.parametrize(("count", "n"), [(0, 30), (3, 200), (150, 200), (199, 200)])
def test_a_bound_is_clopper_and_pearsons_with_slack(count: int, n: int) -> None:
    theirs = binomtest(count, n, alternative="less").proportion_ci(confidence_level=0.95, method="exact").high
    assert upper_bound(count, n, 0.05) == pytest.approx(min(1.0, (1 + SLACK) * theirs))


def test_what_was_always_seen_may_always_be_seen() -> None:
    assert upper_bound(40, 40, 0.01) == 1.0
    assert upper_bounds(np.array([0, 0]), 0.02).tolist() == [1.0, 1.0]


def test_all_bounds_hold_together_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    held = [bool((upper_bounds(rng.multinomial(400, truth), 0.2) / (1 + SLACK) >= truth).all()) for _ in range(1000)]
    assert np.mean(held) >= 0.8


def test_more_rows_bound_more_closely() -> None:
    assert upper_bound(10, 100, 0.01) > upper_bound(100, 1000, 0.01) > upper_bound(1000, 10000, 0.01)
