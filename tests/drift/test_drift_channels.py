"""What each channel sees in a row, and that every row, however odd, has a category."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.drift.channels import (
    LABELS,
    MEASURES,
    Labelled,
    Measured,
    Mix,
    Novelty,
    script,
    unknown_words,
    vocabulary,
)
from finetune_platform.drift.languages import language
from finetune_platform.drift.null_bounds import Vectors
from finetune_platform.drift.rows import TrafficRow

NO_VECTORS = np.zeros((0, 4), dtype=np.float32)


def row(question: str = "where is my card", **fields: Any) -> TrafficRow:
    return TrafficRow(interaction_id="in-1", timestamp=datetime(2026, 1, 1, tzinfo=UTC), question=question, **fields)


def directions(rng: np.random.Generator, rows: int, around: Vectors | None = None, spread: float = 0.3) -> Vectors:
    vectors = rng.normal(size=(rows, 16)) * (1.0 if around is None else spread) + (0.0 if around is None else around)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Where is it?", "LATIN"),
        ("Где моя карта?", "CYRILLIC"),
        ("私のカード 卡卡卡", "CJK"),
        ("123 …!", "none"),
        ("", "none"),
    ],
)
def test_the_script_of_most_letters(question: str, expected: str) -> None:
    assert script(row(question)) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("My card was declined in Berlin yesterday", "en"),
        ("Ich habe meine Karte in Berlin verloren", "de"),
        ("No he recibido la tarjeta que pedí la semana pasada", "es"),
        ("私のカードはどこですか", "ja"),
        ("card", "unsure"),
        ("Hallo", "unsure"),
        ("123 …!", "unsure"),
        ("", "unsure"),
        ("\x00\ud800", "unsure"),
    ],
)
def test_the_language_is_named_where_it_is_sure(question: str, expected: str) -> None:
    assert language(question) == expected


def test_unknown_words_are_a_share() -> None:
    known = vocabulary([row("my Card was lost")])
    assert unknown_words(row("MY card was STOLEN"), known) == 0.25
    assert unknown_words(row("?"), known) is None


rows_of_any_kind = st.builds(
    row,
    st.text(),
    answer=st.none() | st.text(),
    format_valid=st.none() | st.booleans(),
    refused=st.booleans(),
    failed=st.booleans(),
    latency_ms=st.none() | st.floats(0, 1e9),
)


@given(st.lists(rows_of_any_kind, max_size=30), st.lists(rows_of_any_kind, max_size=30))
def test_every_row_has_a_category(reference: list[TrafficRow], rows: list[TrafficRow]) -> None:
    channels = [Measured.of(name, reference, vocabulary(reference)) for name in MEASURES]
    for channel in (*channels, *(Labelled.of(name, reference) for name in LABELS)):
        categories = channel.of_rows(rows, NO_VECTORS)
        assert len(categories) == len(rows)
        assert not rows or 0 <= categories.min() <= categories.max() < channel.categories


def test_rows_without_a_number_and_rare_labels_have_categories_of_their_own() -> None:
    known = [row(latency_ms=float(ms), answer="card") for ms in range(100)]
    latency, answers = Measured.of("latency", known), Labelled.of("answers", known)
    assert latency.of_rows([row(latency_ms=None), row(latency_ms=5000.0)], NO_VECTORS).tolist() == [8, 7]
    assert answers.of_rows([row(answer=" card "), row(answer="transfer")], NO_VECTORS).tolist() == [0, 1]


def test_strange_questions_are_novel_and_familiar_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    home = np.eye(16)[0]
    channel = Novelty.of(directions(rng, 400, home), directions(rng, 400, home))
    familiar = channel.of_rows([row()] * 200, directions(rng, 200, home))
    strange = channel.of_rows([row()] * 200, directions(rng, 200, -home))
    assert (strange == channel.categories - 1).all()
    assert (familiar < 4).mean() > 0.9 and (familiar == 0).mean() == pytest.approx(0.5, abs=0.15)


def test_cells_follow_the_kinds_of_question_and_are_the_same_again() -> None:
    rng = np.random.default_rng(0)
    first, second = directions(rng, 200, np.eye(16)[0], 0.1), directions(rng, 200, np.eye(16)[1], 0.1)
    defining = np.concatenate([first, second])
    mix = Mix.of(defining.copy())
    cells = mix.of_rows([row()] * 400, defining)
    assert not set(cells[:200]) & set(cells[200:])
    assert np.array_equal(mix.centres, Mix.of(defining.copy()).centres)
