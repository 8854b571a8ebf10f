"""Pairs of answers as tokens: one prompt, two answers, and nothing else in the loss."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ticket_rows import example

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.rows import Example, Message
from finetune_platform.training.preferences import tokenise_judged, tokenise_pairs
from finetune_platform.training.rows import TrainRow, read_split, tokenise

SYSTEM = "Name the topic."
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=40)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def preference(prompt: str, chosen: str, rejected: str, number: int = 1) -> Example:
    row = example(prompt, chosen, number)
    return row.model_copy(
        update={"kind": "preference", "rejected": Message(role="assistant", content=rejected, weight=0.0)}
    )


def answer(tokenizer, row: TrainRow) -> str:
    return tokenizer.decode([t for t, weight in zip(row.input_ids, row.weights, strict=True) if weight])


@settings(max_examples=40, deadline=None)
@given(prompt=TEXT, chosen=TEXT, rejected=TEXT)
def test_both_answers_follow_the_same_tokens(tokenizer, prompt, chosen, rejected):
    [pair] = tokenise_pairs([preference(prompt, chosen, rejected)], tokenizer, SYSTEM, 10_000)
    assert pair.chosen.input_ids[: pair.prompt] == pair.rejected.input_ids[: pair.prompt]
    for row, text in ((pair.chosen, chosen), (pair.rejected, rejected)):
        assert not any(row.weights[: pair.prompt]) and row.weights[pair.prompt] == 1
        assert row == tokenise([example(prompt, text)], tokenizer, SYSTEM, 10_000)[0]._replace(place=row.place)


def test_earlier_answers_are_context_only(tokenizer):
    turns = [*example("Hello", "Hi").messages, *example("Which topic?", "card").messages]
    row = Example(
        kind="preference",
        messages=turns,
        rejected=Message(role="assistant", content="login"),
        source_uri="x",
        source_row=1,
    )
    [pair] = tokenise_pairs([row], tokenizer, SYSTEM, 1000)
    assert [answer(tokenizer, r) for r in (pair.chosen, pair.rejected)] == ["card<|im_end|>", "login<|im_end|>"]
    assert "Hi" in tokenizer.decode(pair.chosen.input_ids[: pair.prompt])


def test_an_answer_that_is_too_long_on_either_side_is_refused_with_its_place(tokenizer):
    rows = [preference("Hello", "Hi", "no"), preference("Hello", "Hi", "no " * 60, 7)]
    with pytest.raises(BadInput, match=r"raw/tickets.jsonl:7: \d+ tokens: 1 of 4 rows"):
        tokenise_pairs(rows, tokenizer, SYSTEM, 50)


def test_a_judged_answer_brings_its_judgement(tokenizer):
    good, bad = (
        example("Hello", said).model_copy(update={"kind": "unpaired_preference", "desirable": wanted})
        for said, wanted in (("card", True), ("login", False))
    )
    judged = tokenise_judged([good, bad], tokenizer, SYSTEM, 1000)
    assert [(answer(tokenizer, j.row), j.desirable) for j in judged] == [
        ("card<|im_end|>", True),
        ("login<|im_end|>", False),
    ]


def test_a_split_gives_the_rows_of_the_kind_that_was_asked_for(local_lake, publish_dataset):
    rows = [
        preference("Hello", "Hi", "no"),
        example("Hello", "Hi"),
        Example(kind="text", messages=[], text="About cards.", source_uri="a.txt", source_row=1),
        example("Hello", "Hi").model_copy(update={"kind": "unpaired_preference", "desirable": False}),
        example("kept for", "validation"),
    ]
    dataset = publish_dataset(local_lake, rows)
    assert read_split(local_lake, dataset, "train") == [rows[1]]
    assert read_split(local_lake, dataset, "train", "preference") == [rows[0]]
    assert read_split(local_lake, dataset, "train", "text") == [rows[2]]
    assert read_split(local_lake, dataset, "train", "unpaired_preference") == [rows[3]]
    assert read_split(local_lake, dataset, "validation", "text") == []
