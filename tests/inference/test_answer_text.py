"""Text as it comes adds up to the whole answer, has whole characters only, and ends before a stop string."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.inference.answer_text import INCOMPLETE, AnswerText
from finetune_platform.inference.base_models import load_tokenizer

TEXTS = ["Grüße aus 東京 🎌👩‍👩‍👧 — naïve", "[Bank - ORGANIZATION, Ånge - LOCATION]", "a\n\n  b\tc", "🤖" * 9]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


def pieces(tokenizer: Any, tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    text = AnswerText(tokenizer, stop)
    found = []
    for token in tokens:
        found.append(text.add(token))
        if text.stopped:
            break
    return [*found, text.end()], text.stopped


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters(tokenizer: Any, text: str) -> None:
    found, _ = pieces(tokenizer, tokenizer(text, add_special_tokens=False).input_ids)
    assert "".join(found) == text
    assert not any(INCOMPLETE in piece for piece in found)
    assert sum(map(bool, found)) > 1


@settings(max_examples=200)
@given(tokens=st.lists(st.integers(0, 49151), max_size=30))
def test_pieces_add_up_to_the_whole_answer_of_any_tokens(tokenizer: Any, tokens: list[int]) -> None:
    found, _ = pieces(tokenizer, tokens)
    assert "".join(found) == tokenizer.decode(tokens, skip_special_tokens=True)


@settings(max_examples=200)
@given(data=st.data(), text=st.sampled_from([*TEXTS, "abcabdabcabe abab"]))
def test_the_answer_ends_before_the_first_stop_string(tokenizer: Any, data: st.DataObject, text: str) -> None:
    def part(label: str) -> str:
        start = data.draw(st.integers(0, len(text) - 1), label)
        return text[start : start + data.draw(st.integers(1, 8), label)]

    stop = (part("first"), part("second"), "never in it")
    found, stopped = pieces(tokenizer, tokenizer(text, add_special_tokens=False).input_ids, stop)
    assert stopped
    shown = "".join(found)
    # Tokens come one at a time: the first stop string to be complete ends the answer.
    ends = {text.find(s): text.find(s) + len(s) for s in stop[:2]}
    assert text.startswith(shown)
    assert len(shown) in ends
    assert not any(s in shown for s in stop)


def test_a_beginning_of_a_stop_string_is_shown_once_it_is_none(tokenizer: Any) -> None:
    found, stopped = pieces(tokenizer, tokenizer("END of the EN", add_special_tokens=False).input_ids, ("ENDED",))
    assert ("".join(found), stopped) == ("END of the EN", False)
    assert found[-1] == "EN"
