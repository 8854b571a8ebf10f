"""Draws follow temperature, top_p and the row's own seed, whatever else is in the batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.inference.sampling import Draw, Sampling, next_tokens

LOGITS = [0.0, 3.0, 1.0, 2.0]


def draws(sampling: Sampling, count: int, beside: int = 0) -> list[int | None]:
    """The first tokens of one row, alone or beside others."""
    import torch

    rows = [Draw.of(sampling, "cpu"), *(Draw.of(Sampling(9, 1.3, seed=i), "cpu") for i in range(beside))]
    return [next_tokens(torch.tensor([LOGITS] * len(rows)), rows)[0] for _ in range(count)]


def test_without_temperature_the_likeliest_token_is_taken() -> None:
    assert draws(Sampling(9), 20) == [1] * 20


@given(seed=st.integers(-(2**70), 2**70), beside=st.integers(0, 3), top_p=st.sampled_from([1.0, 0.9]))
def test_a_seed_decides_the_draws_whatever_else_is_in_the_batch(seed: int, beside: int, top_p: float) -> None:
    sampling = Sampling(9, 0.9, top_p, seed)
    assert draws(sampling, 12) == draws(sampling, 12, beside)


def test_a_tiny_temperature_is_none() -> None:
    assert draws(Sampling(9, 1e-45, 0.5, seed=1), 20) == [1] * 20


def test_without_a_seed_draws_differ() -> None:
    assert draws(Sampling(9, 1.0), 40) != draws(Sampling(9, 1.0), 40)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax_at_the_temperature(temperature: float) -> None:
    import torch

    found = draws(Sampling(9, temperature, seed=1), 4000)
    expected = (torch.tensor(LOGITS) / temperature).softmax(-1)
    for token, probability in enumerate(expected.tolist()):
        # Four standard errors of a share of 4,000.
        assert found.count(token) / 4000 == pytest.approx(probability, abs=4 * (0.25 / 4000) ** 0.5)


@pytest.mark.parametrize(
    ("top_p", "tokens"), [(0.0, {1}), (0.5, {1}), (0.8, {1, 3}), (0.95, {1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, tokens: set[int]) -> None:
    # The probabilities are 0.64, 0.24, 0.09, 0.03.
    assert set(draws(Sampling(9, 1.0, top_p, seed=5), 1500)) == tokens


def test_a_row_without_numbers_is_told_from_the_others() -> None:
    import torch

    logits = torch.tensor([LOGITS, [float("nan"), 1.0, 2.0, 0.0], LOGITS])
    rows = [Draw.of(Sampling(9), "cpu"), Draw.of(Sampling(9, 1.0), "cpu"), Draw.of(Sampling(9), "cpu")]
    assert next_tokens(logits, rows) == [1, None, 1]
