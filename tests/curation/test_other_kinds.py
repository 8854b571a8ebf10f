"""Preferences and texts in source files: every way to write them leads to one row, and what is wrong is told."""

import io
import json
from typing import Any

import pytest
from example_rows import chat, jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.curation.rejections import Rejected
from finetune_platform.curation.sources import SourceReader
from finetune_platform.errors import BadInput
from finetune_platform.locations import SourceFile
from finetune_platform.rows import Example
from finetune_platform.task import Curation, Source

U = {"role": "user", "content": "Hi"}
A, B = {"role": "assistant", "content": "Yes"}, {"role": "assistant", "content": "No"}
PAIR = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}
JUDGED = {"prompt": "Hi", "completion": "Yes", "label": True}


def read(data: bytes, fmt: str, name: str = "rows.jsonl", mb: float = 16.0, **source: Any) -> list[Any]:
    file = SourceFile(f"raw/{name}", len(data), lambda: io.BytesIO(data))
    options = Source(uri=f"raw/{name}", format=fmt, **source)
    return list(SourceReader(file, options, Curation(max_rejected_share=1.0, max_line_mb=mb)).read())


def only(data: bytes, fmt: str, **options: Any) -> Any:
    (row,) = read(data, fmt, **options)
    return row


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": [U], "chosen": [A], "rejected": "No"},
        {"chosen": [U, A], "rejected": [U, B]},
        {"prompt": "Hi", "chosen": [U, A], "rejected": [U, B]},
        {"prompt": [U], "chosen": [{"role": "system", "content": "Be brief."}, U, A], "rejected": [U, B]},
        {"prompt": "Hi", "chosen": [U, {**A, "weight": 0}], "rejected": [B]},
    ],
)
def test_every_way_to_write_a_pair_leads_to_the_same_row(row: dict[str, Any]) -> None:
    if row["chosen"][0] == {"role": "system", "content": "Be brief."}:
        row = {**row, "rejected": [row["chosen"][0], U, B]}
    found = only(jsonl([{**row, "task_type": "greeting", "group": 7}]), "preference")
    assert [(m.role, m.content, m.weight) for m in found.messages] == [("user", "Hi", None), ("assistant", "Yes", None)]
    assert (found.kind, found.rejected.content, found.task_type, found.group_id) == (
        "preference",
        "No",
        "greeting",
        "7",
    )
    assert found.example_id == only(jsonl([PAIR]), "preference").example_id
    assert Example.from_record(found.record()) == found


def test_what_both_answers_begin_with_is_their_prompt() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "now"}}]}
    clock = {"role": "tool", "tool_call_id": "1", "content": "12:00"}
    found = only(
        jsonl([{"prompt": "Time?", "chosen": [call, clock, A], "rejected": [call, clock, call]}]), "preference"
    )
    assert [m.role for m in found.prompt] == ["user", "assistant", "tool"]
    assert (found.answer, found.rejected.tool_calls) == ("Yes", call["tool_calls"])


def test_a_judged_answer() -> None:
    good, bad = read(jsonl([JUDGED, {**JUDGED, "completion": [A], "label": False}]), "unpaired_preference")
    assert [(r.kind, r.answer, r.desirable) for r in (good, bad)] == [
        ("unpaired_preference", "Yes", True),
        ("unpaired_preference", "Yes", False),
    ]
    assert good.example_id != bad.example_id


@pytest.mark.parametrize(
    ("fmt", "row", "reason", "says"),
    [
        ("preference", {**PAIR, "rejected": "Yes"}, "equal_answers", "chosen and rejected are the same answer"),
        ("preference", {**PAIR, "rejcted": "x"}, "unknown_key", 'unknown key "rejcted"; did you mean "rejected"?'),
        ("preference", {"prompt": "Hi", "chosen": "Yes"}, "missing_key", '"rejected" is missing; the row has "prompt"'),
        ("preference", {"chosen": "Yes", "rejected": "No"}, "missing_key", '"prompt" is missing, and chosen has no'),
        ("preference", {**PAIR, "chosen": None}, "empty_content", "chosen is missing or null"),
        ("preference", {**PAIR, "chosen": []}, "empty_content", "chosen is an empty list"),
        ("preference", {**PAIR, "chosen": [{**A, "role": "asistant"}]}, "unknown_role", 'chosen[0].role is "asistant"'),
        ("preference", {**PAIR, "chosen": [U, A, U]}, "last_turn_not_assistant", 'chosen[2].role is "user"'),
        ("preference", {**PAIR, "prompt": "Ho", "chosen": [U, A]}, "different_prompts", "chosen is a whole"),
        (
            "preference",
            {"chosen": [U, A], "rejected": [{**U, "content": "Ho"}, B]},
            "different_prompts",
            "differ in message 1 of 2 and 2",
        ),
        ("preference", {**PAIR, "chosen": [B, A]}, "different_prompts", "only their last messages"),
        ("preference", JUDGED, "mixed_format", "this row looks like unpaired_preference"),
        ("preference", chat("Hi", "Yes"), "mixed_format", "this row looks like messages"),
        ("prompt_completion", JUDGED, "mixed_format", "this row looks like unpaired_preference"),
        ("unpaired_preference", {**JUDGED, "label": "yes"}, "wrong_type", 'label is "yes"; it must be true (wanted)'),
        ("unpaired_preference", {**JUDGED, "label": 1}, "wrong_type", "label is 1"),
        ("unpaired_preference", {**JUDGED, "completion": [A, B]}, "several_answers", "completion has 2 messages"),
        ("text", {"text": 3}, "wrong_type", "text is a number"),
        ("text", {"text": None}, "empty_content", "text is missing or null"),
        ("text", {"texts": "a"}, "missing_key", 'is "texts" meant?'),
        ("text", {"text": "a", "tools": []}, "unknown_key", 'unknown key "tools"'),
        ("text", {"text": "a", **chat("a", "b")}, "mixed_format", "looks like messages"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_reason(fmt: str, row: dict[str, Any], reason: str, says: str) -> None:
    good: dict[str, Any] = {"preference": PAIR, "unpaired_preference": JUDGED, "text": {"text": "a"}}.get(
        fmt, {"prompt": "a", "completion": "b"}
    )
    first, second = read(jsonl([good, row]), fmt)
    assert isinstance(first, Example) and isinstance(second, Rejected)
    assert (second.reason, second.source_row) == (reason, 2)
    assert second.detail.startswith("raw/rows.jsonl:2: ") and says in second.detail


def test_a_file_of_another_kind_says_which() -> None:
    with pytest.raises(BadInput, match="format is messages, but the file looks like preference") as caught:
        read(jsonl([PAIR] * 3), "messages")
    assert caught.value.mend == "set format: preference for this source"


@pytest.mark.parametrize(
    ("columns", "cells", "expected"),
    [
        ("prompt,chosen,rejected", "Hi,Yes,No", PAIR),
        ("prompt,completion,label", "Hi,Yes,TRUE", JUDGED),
        ("prompt,completion,label", "Hi,Yes,0", {**JUDGED, "label": False}),
        ("text", "Hi", {"text": "Hi"}),
    ],
)
def test_csv_columns_say_what_a_row_is(columns: str, cells: str, expected: dict[str, Any]) -> None:
    names = columns.split(",")
    found = only(f"{columns}\n{cells}\n".encode(), "csv", columns={name: name for name in names})
    fmt = {"text": "text", "chosen": "preference"}.get(names[min(1, len(names) - 1)], "unpaired_preference")
    assert found.example_id == only(jsonl([expected]), fmt).example_id


def test_a_csv_row_that_says_nothing_of_its_answers_is_set_aside() -> None:
    same = only(b"q,c,r\na,b,b\n", "csv", columns={"prompt": "q", "chosen": "c", "rejected": "r"})
    assert (same.reason, same.source_row) == ("equal_answers", 2)
    unknown = only(b"q,a,l\na,b,good\n", "csv", columns={"prompt": "q", "completion": "a", "label": "l"})
    assert 'label is "good"' in unknown.detail


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"prompt": "q"}, "or text: not prompt"),
        ({"prompt": "q", "completion": "a", "rejected": "r"}, "not completion, prompt, rejected"),
        ({"group": "g"}, "not none of them"),
        ({"text": "t", "system": "s"}, "a text has no system prompt"),
    ],
)
def test_columns_that_make_no_row_are_refused(columns: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Source.model_validate({"uri": "a.csv", "format": "csv", "columns": columns})


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_a_file_is_one_document(text: str) -> None:
    row = only(b"\xef\xbb\xbf" + text.encode(), "text", name="guide.md")
    assert (row.kind, row.text, row.messages, row.source_row) == ("text", text.replace("\r\n", "\n"), [], 1)
    assert row.text == only(json.dumps({"text": text}).encode(), "text").text


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"a" * 1001, "document_too_long", "more than 1,000 bytes"),
        (b"ab\xff", "not_utf8", "byte 3 is not UTF-8"),
    ],
)
def test_a_document_that_cannot_be_read_is_set_aside(data: bytes, reason: str, says: str) -> None:
    row = only(data, "text", name="guide.txt", mb=0.001)
    assert (row.reason, row.source_row, says in row.detail) == (reason, 1, True)
    assert only(b"a" * 1000, "text", name="guide.txt", mb=0.001).text == "a" * 1000


def test_a_document_in_utf16_is_told() -> None:
    with pytest.raises(BadInput, match=r"raw/guide.txt:1: the file is UTF-16"):
        read("Hi".encode("utf-16"), "text", name="guide.txt")
