"""What a private run spends, against Opacus' own engine, and whether its draws are what is accounted for."""

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from opacus.accountants import create_accountant

from finetune_platform.errors import BadInput
from finetune_platform.task_privacy import DifferentialPrivacy
from finetune_platform.task_training import Stage
from finetune_platform.training.batches import Shape
from finetune_platform.training.private.accounting import epsilon, promise
from finetune_platform.training.private.sampling import (
    ROWS_AT_ONCE,
    Sampling,
    forget_noise_key,
    noise_key,
    normals,
    poisson_plan,
    sampling_of,
    uniforms,
)
from finetune_platform.training.rows import TrainRow

KEY = b"a secret of thirty-two bytes ..."


def rows_of(count):
    return [TrainRow([1, 2], [0.0, 1.0], f"raw/x.jsonl:{n}") for n in range(count)]


def promise_of(count=200, epochs=2.0, batch=8, **options):
    stage = Stage(
        privacy=DifferentialPrivacy.model_validate({"delta": 1e-3, **options}),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
    )
    rows = rows_of(count)
    groups = {row.place: f"g{max(n, 2)}" for n, row in enumerate(rows)}
    return promise(stage, sampling_of(stage, count), rows, groups)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_epsilon_is_what_opacus_counts_step_by_step(accountant):
    record = promise_of(noise_multiplier=1.3, accountant=accountant)
    theirs = create_accountant(mechanism=accountant)
    for _ in range(record.steps):
        theirs.step(noise_multiplier=1.3, sample_rate=8 / 200)
    assert (record.steps, record.sample_rate) == (50, 0.04)
    assert record.epsilon == theirs.get_epsilon(delta=1e-3)
    assert record.largest_group == 3


def test_the_noise_for_a_budget_is_enough_and_little_more():
    record = promise_of(target_epsilon=3.0, accountant="rdp")
    assert 2.98 < record.epsilon <= 3.0
    less = epsilon(record.noise_multiplier * 0.98, Sampling(record.sample_rate, record.steps), 1e-3, "rdp")
    assert less > 3.0


def test_the_plain_gaussian_mechanism_is_bounded_and_not_by_much():
    """One step that draws every row is a Gaussian mechanism, whose exact delta is known (Balle and Wang 2018)."""
    sigma, delta = 2.0, 1e-3

    def exact(eps):
        shift = 1 / (2 * sigma)
        return scipy.stats.norm.cdf(shift - eps * sigma) - numpy.exp(eps) * scipy.stats.norm.cdf(-shift - eps * sigma)

    tight, loose = (epsilon(sigma, Sampling(1.0, 1), delta, accountant) for accountant in ("prv", "rdp"))
    assert exact(tight) <= delta < exact(tight - 0.05)
    assert exact(loose) <= delta


def test_a_promise_that_means_nothing_is_refused():
    with pytest.raises(BadInput, match="whoever published one row as it is would keep that promise"):
        promise_of(noise_multiplier=1.0, delta=0.01)
    with pytest.raises(BadInput, match="no noise keeps 50 steps within epsilon 1e-09"):
        promise_of(target_epsilon=1e-9, accountant="rdp")


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=80),
    batch=st.integers(1, 100),
    epochs=st.floats(0.1, 4),
)
def test_every_step_draws_rows_at_most_once_in_passes_that_fit(lengths, batch, epochs):
    stage = Stage(num_train_epochs=epochs, per_device_train_batch_size=batch)
    sampling = sampling_of(stage, len(lengths))
    plan = poisson_plan(KEY, [Shape(length) for length in lengths], sampling, 400)
    assert len(plan) == sampling.steps and plan[-1].epoch >= epochs - 1e-6
    for step in plan:
        drawn = [row for part in step.batches for row in part]
        assert len(set(drawn)) == len(drawn) and set(drawn) <= set(range(len(lengths)))
        if sampling.rate == 1:
            assert len(drawn) == len(lengths)
        for part in step.batches:
            assert 1 <= len(part) <= ROWS_AT_ONCE
            drawn_lengths = [lengths[row] for row in part]
            assert len(part) == 1 or (sum(drawn_lengths) <= 400 and len(part) * max(drawn_lengths) <= 800)


def test_each_row_comes_on_its_own_and_as_often_as_is_accounted_for():
    plan = poisson_plan(KEY, [Shape(5)] * 40, Sampling(0.1, 5000), 400)
    sizes = numpy.array([step.rows for step in plan])
    often = numpy.bincount([row for step in plan for part in step.batches for row in part], minlength=40)
    expected = scipy.stats.binom(40, 0.1).pmf(range(10)) * 5000
    found = numpy.bincount(sizes.clip(max=9), minlength=10)
    expected[9] += 5000 - expected.sum()
    assert scipy.stats.chisquare(found, expected).pvalue > 1e-3
    assert scipy.stats.chisquare(often, [often.mean()] * 40).pvalue > 1e-3
    assert (sizes == 0).any(), "a step may draw nothing"
    assert plan == poisson_plan(KEY, [Shape(5)] * 40, Sampling(0.1, 5000), 400)
    assert plan[:50] != poisson_plan(KEY[::-1], [Shape(5)] * 40, Sampling(0.1, 50), 400)


def test_the_numbers_behind_it_are_uniform_and_normal():
    assert scipy.stats.kstest(uniforms(KEY, "a", 100_000), "uniform").pvalue > 1e-3
    drawn = normals(KEY, "a", 100_001)
    assert len(drawn) == 100_001 and scipy.stats.kstest(drawn, "norm").pvalue > 1e-3
    halves = drawn[:50_000], drawn[-50_000:]  # One of each pair beside the other.
    assert abs(numpy.corrcoef(*halves)[0, 1]) < 0.02 and abs(numpy.corrcoef(*numpy.square(halves))[0, 1]) < 0.02


def test_a_run_has_one_secret_until_it_is_forgotten(lake):
    key = noise_key(lake, "t/training_runs/tr-1")
    assert len(key) == 32
    assert noise_key(lake, "t/training_runs/tr-1") == key != noise_key(lake, "t/training_runs/tr-2")
    forget_noise_key(lake, "t/training_runs/tr-1")
    assert not lake.list("t/training_runs/tr-1")
    assert noise_key(lake, "t/training_runs/tr-1") != key
