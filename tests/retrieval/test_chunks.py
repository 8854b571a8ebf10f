"""Cutting documents: nothing is lost, positions are true, overlaps are as asked, cuts fall where a reader pauses."""

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_platform.retrieval.chunks import chunk

TEXTS = st.text(st.sampled_from("ab .\n\té漢。?"), max_size=400)


@given(TEXTS, st.integers(2, 60), st.floats(0, 0.5))
@example("??\n", 2, 0.5)
@example("a 。\nb\n\tb\naéa \n\t  \néb \nbé.。。.", 12, 0.5)
@example("x" * 200, 50, 0.5)
@example("\n\n\n \n" * 40, 20, 0.5)
@settings(max_examples=300, deadline=None)
def test_nothing_is_lost_and_positions_and_overlaps_are_true(text: str, size: int, share: float) -> None:
    overlap = int(size * share)
    pieces = chunk(text, size, overlap)
    covered = set()
    for piece in pieces:
        assert piece.text == text[piece.start : piece.end]
        assert piece.text == piece.text.strip()
        assert 0 < len(piece.text) <= size
        covered.update(range(piece.start, piece.end))
    assert all(text[place].isspace() for place in set(range(len(text))) - covered)
    for before, after in itertools.pairwise(pieces):
        assert before.start < after.start and before.end < after.end
        assert before.end - after.start <= overlap


def test_unbroken_text_overlaps_by_exactly_what_was_asked() -> None:
    pieces = chunk("".join(chr(0x4E00 + i) for i in range(500)), 100, 30)
    assert [len(piece.text) for piece in pieces[:-1]] == [100] * (len(pieces) - 1)
    assert {before.end - after.start for before, after in itertools.pairwise(pieces)} == {30}


def test_words_overlap_by_whole_words() -> None:
    text = " ".join(f"word{number:03d}" for number in range(200))
    pieces = chunk(text, 100, 30)
    assert all(piece.text.startswith("word") and piece.text[-1].isdigit() for piece in pieces)
    # Eight characters a word and its space: three whole ones fit in thirty, and the space at the cut may take a place.
    assert {before.end - after.start for before, after in itertools.pairwise(pieces)} <= {15, 23}


def test_a_cut_prefers_paragraphs_to_sentences_to_words() -> None:
    text = "One sentence here. Another one there.\n\nA new paragraph begins and goes on for a good while longer."
    assert chunk(text, 60, 0)[0].text == "One sentence here. Another one there."
    assert chunk(text.replace("\n\n", " "), 60, 0)[0].text == "One sentence here. Another one there."
    assert chunk("word " * 30, 62, 0)[0].text == ("word " * 12).strip()


def test_a_short_text_is_one_piece_and_a_blank_one_none() -> None:
    assert [tuple(piece) for piece in chunk("  short\n", 100, 20)] == [(2, 7, "short")]
    assert chunk(" \n\t", 100, 20) == []
