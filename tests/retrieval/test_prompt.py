"""Passages in prompts: their place, their marks, and documents that look like templates."""

from typing import Any

import pytest

from finetune_platform.retrieval.index import Passage, Place
from finetune_platform.retrieval.prompt import citations, question_of, render, with_passages
from finetune_platform.task_retrieval import Retrieval

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "How long?"}


def wanted(**values: Any) -> Retrieval:
    return Retrieval.model_validate({"corpus": [{"uri": "docs"}], "prompt": "Sources:\n{passages}", **values})


def passage(name: str, text: str) -> Passage:
    return Passage(Place(name, name, 0, 3, 9), text, 0.03, 1, 0.5)


FOUND = [passage("a.md", "Five days."), passage("b.md", "Ten years.")]


def test_passages_are_numbered_in_order() -> None:
    assert render(FOUND, wanted()) == "Sources:\n[1] a.md\nFive days.\n\n[2] b.md\nTen years."
    assert render([], wanted()) == ""


def test_a_document_cannot_pass_for_the_template() -> None:
    text = render([passage("{text}", "{number} {name} {passages}")], wanted())
    assert text == "Sources:\n[1] {text}\n{number} {name} {passages}"


def test_long_passages_are_cut() -> None:
    text = render([passage("a", "x" * 100)], wanted(max_passage_chars=50, passage="{number}:{text}"))
    assert text == f"Sources:\n1:{'x' * 50}…"


@pytest.mark.parametrize(
    ("place", "messages", "expected"),
    [
        ("system", [SYSTEM, USER], [{"role": "system", "content": "Be brief.\n\nSources:\n1 y"}, USER]),
        ("system", [USER], [{"role": "system", "content": "Sources:\n1 y"}, USER]),
        ("user", [SYSTEM, USER], [SYSTEM, {"role": "user", "content": "Sources:\n1 y\n\nHow long?"}]),
    ],
)
def test_passages_stand_where_the_task_says(place: str, messages: list[Any], expected: list[Any]) -> None:
    asked = [dict(message) for message in messages]
    found = with_passages(messages, [passage("x", "y")], wanted(place=place, passage="{number} {text}"))
    assert found == expected
    assert messages == asked, "the caller's messages are the caller's"


def test_the_question_is_the_last_users() -> None:
    answer = {"role": "assistant", "content": "Which?"}
    assert question_of([SYSTEM, USER, answer, {"role": "user", "content": "The card."}, answer]) == "The card."
    assert question_of([SYSTEM]) == ""


def test_citations_name_document_place_and_score() -> None:
    assert citations(FOUND)[1] == {
        "number": 2, "name": "b.md", "uri": "b.md", "row": None, "start": 3, "end": 9, "score": 0.03, "similarity": 0.5,
    }  # fmt: skip
