"""Exact match and token F1 of single answers."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.evaluation.text_metrics import exact_match, token_f1, words


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [(" refund\n", "refund", 1.0), ("Refund", "refund", 0.0), ("", "", 1.0), ("", "refund", 0.0)],
)
def test_exact_match_forgives_white_space_alone(answer: str, gold: str, expected: float) -> None:
    assert exact_match(answer, gold) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("The cat sat.", "the cat sat", 1.0),
        ("cat", "the cat sat", 0.5),
        ("cat cat", "cat", 2 / 3),
        ("", "", 1.0),
        ("", "cat", 0.0),
        ("👍", "👎", 0.0),
        ("+", "+", 1.0),
        ("日本語", "日本", 0.8),
    ],
)
def test_token_f1_of_known_pairs(answer: str, gold: str, expected: float) -> None:
    assert token_f1(answer, gold) == pytest.approx(expected)


@settings(max_examples=100)
@given(st.text(), st.text())
def test_token_f1_is_symmetric_bounded_and_perfect_on_itself(one: str, other: str) -> None:
    assert token_f1(one, other) == token_f1(other, one)
    assert 0.0 <= token_f1(one, other) <= 1.0
    assert token_f1(one, one) == 1.0


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["a", "b", "cc"]), max_size=8), st.randoms())
def test_token_f1_does_not_see_the_order(tokens: list[str], random: Random) -> None:
    shuffled = sorted(tokens, key=lambda _: random.random())
    assert token_f1(" ".join(shuffled), " ".join(tokens)) == 1.0
    assert sorted(words(" ".join(tokens))) == sorted(tokens)
