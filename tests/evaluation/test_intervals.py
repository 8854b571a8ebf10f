"""Intervals against scipy, published tables and brute force."""

import numpy as np
import pytest
from scipy import stats

from finetune_platform.evaluation.intervals import (
    effective_rows,
    proportion,
    rows_for_zero_count,
    wilson,
    zero_count_bound,
)
from finetune_platform.evaluation.resampling import bca, expanded, leave_one_out, ratio, resample


@pytest.mark.parametrize(("successes", "n"), [(1, 10), (81, 263), (15, 148), (9, 10), (0, 20), (29, 29)])
@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_wilson_agrees_with_scipy(successes: int, n: int, alpha: float) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(1 - alpha, method="wilson")
    assert wilson(successes, n, alpha) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_zero_counts_follow_the_rule_of_three() -> None:
    assert zero_count_bound(150, 0.05) == pytest.approx(3 / 150, rel=0.002)
    assert rows_for_zero_count(0.02, 0.05) == 150
    assert proportion(0, 150, 0.05).upper <= 0.02 < proportion(0, 149, 0.05).upper
    assert proportion(150, 150, 0.05) == pytest.approx((1 - zero_count_bound(150, 0.05), 1))


def test_near_duplicates_are_worth_as_many_rows_as_they_tell() -> None:
    generator = np.random.default_rng(0)
    independent = generator.integers(0, 2, 100).astype(float)
    assert effective_rows(independent, np.arange(100), 100) == 100
    copies, groups = np.repeat(independent, 4), np.repeat(np.arange(100), 4)
    assert effective_rows(copies, groups, 100) == pytest.approx(100, rel=0.03)
    unrelated = generator.integers(0, 2, 400).astype(float)
    assert effective_rows(unrelated, groups, 100) > 250


def test_bca_agrees_with_scipy_on_a_skewed_mean() -> None:
    data = np.random.default_rng(3).exponential(size=60)
    sums = np.stack([data, np.ones(60)], axis=1)
    replicates = ratio(*resample(sums, 40_000).T)
    ours = bca(float(data.mean()), replicates, ratio(*leave_one_out(sums).T), 0.05)
    theirs = stats.bootstrap((data,), np.mean, n_resamples=40_000, rng=np.random.default_rng(4)).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bca_agrees_with_scipy_on_a_ratio_of_sums() -> None:
    generator = np.random.default_rng(5)
    size = generator.poisson(3, 80) + 1.0
    found = generator.binomial(size.astype(int), 0.8).astype(float)
    sums = np.stack([found, size], axis=1)
    replicates = ratio(*resample(sums, 40_000).T)
    ours = bca(found.sum() / size.sum(), replicates, ratio(*leave_one_out(sums).T), 0.05)
    theirs = stats.bootstrap(
        (found, size),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=40_000,
        rng=np.random.default_rng(6),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_resampling_draws_whole_groups_and_repeats_itself() -> None:
    sums = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    drawn = resample(sums, 500)
    assert np.array_equal(drawn[:, 1], 10 * drawn[:, 0])
    assert set(drawn[:, 0]) <= {float(a + b + c) for a in (1, 2, 4) for b in (1, 2, 4) for c in (1, 2, 4)}
    assert np.array_equal(drawn, resample(sums, 500))
    assert resample(sums, 10_000)[:, 0].mean() == pytest.approx(7, rel=0.02)


def test_chunks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).random((50, 3))
    monkeypatch.setattr("finetune_platform.evaluation.resampling.CHUNK_CELLS", 1000)
    in_chunks = resample(sums, 1000)
    monkeypatch.undo()
    assert np.array_equal(in_chunks, resample(sums, 1000))


def test_few_groups_widen_a_bootstrap_interval_as_student_does() -> None:
    assert expanded(0.05, 10_000) == pytest.approx(0.05, rel=0.01)
    nominal = stats.norm.isf(expanded(0.05, 20) / 2)
    assert nominal == pytest.approx(np.sqrt(20 / 19) * stats.t.isf(0.025, 19))
