"""Rows and their identity: what is stored comes back, and the same content has the same id everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_platform.identity import canonical_json, content_id, file_sha256, folder_sha256
from finetune_platform.rows import EXAMPLE_SCHEMA, Example, Message

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.none() | TEXT,
    name=st.none() | TEXT,
    weight=st.none() | st.floats(0, 1),
    tool_calls=st.none() | OBJECTS,
    tool_call_id=st.none() | TEXT,
)
EXAMPLES = st.builds(
    Example,
    kind=st.sampled_from(["sft", "preference", "unpaired_preference", "text"]),
    messages=st.lists(MESSAGES, max_size=4),
    rejected=st.none() | MESSAGES,
    desirable=st.none() | st.booleans(),
    text=st.none() | TEXT,
    tools=st.none() | OBJECTS,
    task_type=TEXT,
    difficulty=TEXT,
    label_source=st.sampled_from(["imported", "production", "expert", "synthetic"]),
    source_uri=TEXT,
    source_row=st.integers(0, 2**40),
    group_id=TEXT,
)


def example(*contents: str, **fields: object) -> Example:
    messages = [{"role": "user" if n % 2 == 0 else "assistant", "content": c} for n, c in enumerate(contents)]
    return Example.model_validate({"messages": messages, "source_uri": "a.jsonl", "source_row": 1, **fields})


@hypothesis_settings(max_examples=100, deadline=None)
@given(EXAMPLES)
def test_a_row_comes_back_from_its_record_and_from_parquet(row: Example) -> None:
    record = row.record()
    assert list(record.keys() ^ set(EXAMPLE_SCHEMA.names)) == []
    assert Example.from_record(record) == row
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([record], schema=EXAMPLE_SCHEMA), sink)
    (stored,) = pq.read_table(pa.BufferReader(sink.getvalue())).to_pylist()
    assert stored == record
    assert Example.from_record(stored).example_id == row.example_id


@hypothesis_settings(max_examples=50, deadline=None)
@given(EXAMPLES, TEXT, TEXT)
def test_the_id_is_of_what_the_model_sees_and_not_of_where_it_came_from(row: Example, uri: str, stratum: str) -> None:
    moved = row.model_copy(update={"source_uri": uri, "source_row": 7, "task_type": stratum, "group_id": uri})
    assert moved.example_id == row.example_id
    changed = row.model_copy(update={"messages": [*row.messages, Message(role="user", content="more")]})
    assert changed.example_id != row.example_id


def test_what_a_kind_adds_to_its_messages_is_part_of_the_id() -> None:
    added: list[dict[str, object]] = [
        {},
        {"rejected": {"role": "assistant", "content": "x"}},
        {"rejected": {"role": "assistant", "content": "y"}},
        {"desirable": True},
        {"desirable": False},
        {"text": "x"},
        {"text": "y"},
    ]
    assert len({example("q", "a", **fields).example_id for fields in added}) == len(added)


def test_the_id_of_a_known_row_never_changes() -> None:
    # A changed value would orphan every id that stands in a lake, a label or a report.
    assert example("List the entities.\n\nBorrower: Österbank", "[Österbank - ORGANIZATION]").example_id == (
        "ex-dfa8fe282fc4642642ee"
    )


def test_the_id_is_the_same_in_another_process() -> None:
    script = (
        "from finetune_platform.rows import Example, Message;"
        "print(Example(messages=[Message(role='user', content='ü'), Message(role='assistant', content='b')],"
        "source_uri='elsewhere', source_row=9).example_id)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert told == example("ü", "b").example_id


def test_prompt_and_answer_are_before_and_in_the_last_turn() -> None:
    row = example("one", "two", "three", "four")
    assert [m.content for m in row.prompt] == ["one", "two", "three"]
    assert row.answer == "four"
    assert row.record()["answer"] == "four"
    assert json.loads(row.record()["prompt"])[2] == {"role": "user", "content": "three"}
    assert Example(messages=[], source_uri="", source_row=0).answer == ""


def test_columns_that_are_not_fields_are_ignored_and_unknown_fields_refused() -> None:
    row = example("q", "a")
    assert Example.from_record({**row.record(), "split": "train"}) == row
    with pytest.raises(ValidationError, match="colour"):
        example("q", "a", colour="red")


@hypothesis_settings(max_examples=50)
@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_canonical_json_is_lossless_and_blind_to_the_order_of_keys(value: dict[str, object]) -> None:
    assert json.loads(canonical_json(value)) == value
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)
    assert content_id("x", value) == content_id("x", dict(reversed(value.items())))


def test_a_lone_surrogate_has_an_id_and_a_nan_has_none() -> None:
    assert content_id("ds", {"text": "\ud800"}).startswith("ds-")
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_id("ds", float("nan"))


def test_hashes_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "b" / "x") == abc
    hashes = folder_sha256(tmp_path)
    assert list(hashes) == ["a", "b/x"]
    assert hashes["b/x"] == abc
