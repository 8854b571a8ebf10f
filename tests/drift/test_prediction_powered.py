"""Prediction-powered means: by hand, in simulation (a small `bench/evidence.py ppi`), and where labels are few."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from ppi_simulations import World, simulate

from finetune_platform.drift.prediction_powered import (
    Labelled,
    PoweredMean,
    Unlabelled,
    prediction_powered_mean,
    weighted_bounds,
)

THIRDS = {"quality": (0.9, 0.6, 0.2), "shares": (0.5, 0.3, 0.2)}


def mean_of(scores: list[float], judged: list[float], others: list[float], strata: str = "") -> PoweredMean:
    def names(rows: list[float]) -> np.ndarray:
        return np.array([strata] * len(rows))

    return prediction_powered_mean(
        Labelled(np.array(scores), np.array(judged), np.ones(len(scores)), names(scores)),
        Unlabelled(np.array(others), np.ones(len(others)), names(others)),
    )


def test_the_mean_of_a_small_sample_by_hand() -> None:
    scores = [1.0, 1.0, 0.0, 1.0] * 10
    judged = [0.8, 0.8, 0.2, 0.2] * 10
    found = mean_of(scores, judged, [0.8] * 60 + [0.2] * 60)
    # Cov = 0.075, Var = 0.09, 40 labels and 120 others: 0.075 / 0.09 / (1 + 1/3) = 0.625; both means of f are 0.5.
    assert found.slopes == {"": pytest.approx(0.625)}
    assert found.estimate.value == pytest.approx(0.75)
    rest = np.array(scores) - 0.625 * np.array(judged)
    variance = rest.var() / 38 * 39 / 40 * 40 / 39 + 0.625**2 * 0.09 / 119
    assert found.estimate.standard_error == pytest.approx(variance**0.5, rel=1e-6)
    assert found.labels_only.standard_error == pytest.approx((0.1875 / 39) ** 0.5, rel=1e-6)
    assert (found.labels, found.judged, found.estimate.method) == (40, 120, "prediction-powered")


def test_others_that_the_judge_likes_less_lower_the_mean() -> None:
    scores, judged = [1.0, 1.0, 0.0, 1.0] * 20, [0.8, 0.8, 0.2, 0.6] * 20
    assert mean_of(scores, judged, [0.1] * 500).estimate.value < mean_of(scores, judged, [0.8] * 500).estimate.value


def test_without_a_judge_the_labels_stand_alone() -> None:
    found = mean_of([1.0, 0.0] * 30, [0.0] * 60, [0.0] * 100)
    assert found.estimate == found.labels_only and found.slopes == {"": 0.0}
    assert (found.estimate.method, found.estimate.value) == ("labels", 0.5)
    assert mean_of([1.0, 0.0] * 30, [0.0] * 60, []).estimate == found.estimate


def test_a_judge_who_says_the_same_of_all_labelled_rows_is_not_trusted() -> None:
    found = mean_of([1.0] * 180 + [0.0] * 20, [0.9] * 200, [0.2, 0.9] * 100)
    assert found.slopes == {"": 0.0} and found.estimate.value == pytest.approx(0.9)


def test_labels_weigh_what_they_stand_for() -> None:
    """Half of the traffic is of each kind; of the second kind three times as many rows were labelled."""
    scores = np.array([1.0] * 20 + [0.0] * 60)
    strata, weights = np.array(["a"] * 20 + ["b"] * 60), np.array([3.0] * 20 + [1.0] * 60)
    nothing = np.zeros(80)
    alone = prediction_powered_mean(
        Labelled(scores, nothing, weights, strata), Unlabelled(nothing[:0], nothing[:0], strata[:0])
    )
    assert alone.estimate.value == pytest.approx(0.5)
    traffic = Unlabelled(np.zeros(40), np.full(40, 20.0), np.array(["a"] * 30 + ["b"] * 10))
    beside = prediction_powered_mean(Labelled(scores, nothing, weights, np.array(["a"] * 80)), traffic)
    assert beside.estimate.value == pytest.approx(0.5)  # "b" has no label of its own: it leans on those of "a"


def test_few_labels_and_rare_failures_are_bet_on() -> None:
    few = mean_of([1.0] * 12 + [0.0] * 8, [0.5] * 20, [0.5] * 500)
    assert few.estimate.method == "betting" and few.estimate.lower < 0.4 < 0.8 < few.estimate.upper
    rare = mean_of([1.0] * 99 + [0.0], [1.0] * 99 + [0.0], [1.0] * 900 + [0.0] * 9)
    assert rare.estimate.method == "betting" and rare.estimate.lower < 0.96 and rare.estimate.upper < 1.0
    perfect = mean_of([1.0] * 40, [1.0] * 40, [1.0] * 400).estimate
    assert (perfect.value, perfect.upper) == (1.0, 1.0) and 0.8 < perfect.lower < 0.95


def test_weighted_betting_bounds_cover_at_all_sizes_at_once() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(200):
        heavy = rng.random(60) < 0.3
        scores = (rng.random(60) < np.where(heavy, 0.2, 0.8)).astype(float)
        weights = np.where(heavy, 2.0, 0.6)
        truth = float((np.where(heavy, 0.2, 0.8) * weights / weights.mean()).mean())
        bounds = weighted_bounds(scores, weights / weights.mean(), 0.05)
        missed += not bounds.lower <= truth <= bounds.upper
    assert missed <= 10


@pytest.mark.parametrize(
    ("world", "labels"),
    [
        (World(), 60),
        (World(judge="useless"), 60),
        (World(judge="perfect"), 60),
        (World(quality=(0.98,)), 150),
        (World(**THIRDS, drawn=(1.0, 2.0, 4.0)), 100),
        (World(partial=True), 20),
    ],
    ids=["graded", "useless", "perfect", "rare failures", "weighted strata", "few labels"],
)
def test_intervals_cover_the_truth(world: World, labels: int) -> None:
    found = simulate(world, labels, 1000, 400, seed=11)
    assert found.coverage >= 0.93 and abs(found.bias) < 4, found


def test_a_judge_saves_labels_and_a_useless_one_costs_next_to_nothing() -> None:
    assert World().kappa == pytest.approx(0.6, abs=0.01)
    assert simulate(World(), 150, 3000, 300, seed=2).saved >= 0.2
    assert simulate(World(judge="useless"), 150, 3000, 300, seed=2).saved >= -0.03
