"""Words that set two sets of texts apart: the right ones, with their counts, and none where there are none."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.drift.words import MOST, distinguishing

HOME = ["where is my card", "my card was declined", "the transfer is missing", "is my transfer late"] * 50


def test_new_words_come_first_with_the_rows_that_hold_them() -> None:
    more, fewer = distinguishing(HOME, HOME[:150] + ["cancel my flight to Lisbon, cancel my FLIGHT"] * 30)
    assert {"lisbon", "flight to"} & {gram.words for gram in more[:4]}
    found = {gram.words: (gram.before, gram.now) for gram in more}
    assert set(found.values()) == {(0, 30)} and "card" not in found
    assert all(gram.z >= 3 for gram in more) and all(gram.z <= -3 for gram in fewer)
    assert [gram.z for gram in more] == sorted((gram.z for gram in more), reverse=True)


def test_what_went_away_is_less_frequent() -> None:
    more, fewer = distinguishing(HOME, [text for text in HOME if "card" not in text])
    assert any("card" in gram.words for gram in fewer)
    assert not any("card" in gram.words for gram in more)


def test_a_pair_does_not_repeat_its_word() -> None:
    more, _ = distinguishing(HOME, [*HOME, *["zebra crossing"] * 40])
    assert len([gram for gram in more if "zebra" in gram.words or "crossing" in gram.words]) <= 2


def test_of_the_same_texts_hardly_a_word_stands_out() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices([f"w{n}" for n in range(60)], k=8)) for _ in range(600)]
    told = [gram for seed in range(10) for part in distinguishing(*_halves(texts, seed)) for gram in part]
    assert len(told) <= 3


def _halves(texts: list[str], seed: int) -> tuple[list[str], list[str]]:
    order = np.random.default_rng(seed).permutation(len(texts))
    return [texts[i] for i in order[:300]], [texts[i] for i in order[300:]]


@given(st.lists(st.text(max_size=40), max_size=20), st.lists(st.text(max_size=40), max_size=20))
def test_any_texts_are_compared(before: list[str], now: list[str]) -> None:
    for part in distinguishing(before, now):
        assert len(part) <= MOST
