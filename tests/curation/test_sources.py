"""One source file: good rows of each format come through, bad ones with their place, and no byte is lost."""

import io
import json
from typing import Any

import pytest
from example_rows import chat, jsonl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_platform.curation.rejections import Rejected
from finetune_platform.curation.sources import SourceReader
from finetune_platform.errors import BadInput
from finetune_platform.identity import canonical_json
from finetune_platform.locations import SourceFile
from finetune_platform.rows import REJECTED_CONTENT_CHARS, Example
from finetune_platform.task import Curation, Source

CSV = {"format": "csv", "columns": {"prompt": "question", "completion": "answer"}}


def reader(data: bytes, share: float = 1.0, max_line_mb: float = 16.0, **source: Any) -> SourceReader:
    file = SourceFile("raw/rows.x", len(data), lambda: io.BytesIO(data))
    options = {"uri": "raw/rows.x", "format": "messages", **source}
    return SourceReader(file, Source(**options), Curation(max_rejected_share=share, max_line_mb=max_line_mb))


def read(data: bytes, **options: Any) -> list[Example | Rejected]:
    return list(reader(data, **options).read())


def only(data: bytes, **options: Any) -> Any:
    (row,) = read(data, **options)
    return row


def texts(row: Example) -> list[tuple[str, str | None]]:
    return [(m.role, m.content) for m in row.messages]


@pytest.mark.parametrize(
    ("fmt", "row"),
    [
        ("messages", chat("Hi", "Yes")),
        ("prompt_completion", {"prompt": "Hi", "completion": "Yes"}),
        ("prompt_completion", {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Yes"}),
        ("prompt_completion", {"prompt": "Hi", "completion": [{"role": "assistant", "content": "Yes"}]}),
        ("input_ideal", {"input": [{"role": "user", "content": "Hi"}], "ideal": "Yes"}),
        ("input_ideal", {"input": "Hi", "ideal": ["Yes", "Yeah"]}),
    ],
)
def test_every_format_leads_to_the_same_row(fmt: str, row: dict[str, Any]) -> None:
    found = only(jsonl([row]), format=fmt)
    assert texts(found) == [("user", "Hi"), ("assistant", "Yes")]
    assert found.example_id == only(jsonl([chat("Hi", "Yes")])).example_id


def test_csv_by_its_columns_with_quotes_and_line_ends() -> None:
    data = b'\xef\xbb\xbfid,question,answer,kind\r\n1,"a ""b"", c\r\nd",yes,x\r\n\r\n2,e,no,y'
    columns = {"prompt": "question", "completion": "answer", "task_type": "kind", "group": "id"}
    first, second = read(data, format="csv", columns=columns)
    assert texts(first) == [("user", 'a "b", c\nd'), ("assistant", "yes")]
    assert (first.task_type, first.group_id, first.source_row) == ("x", "1", 2)
    assert (texts(second)[0], second.source_row) == (("user", "e"), 5)


def test_csv_system_column_overrides_the_task() -> None:
    columns = {"prompt": "q", "completion": "a", "system": "s"}
    with_own, without = read(b"q,a,s\n1,2,Be brief.\n3,4,\n", format="csv", columns=columns)
    assert texts(with_own)[0] == ("system", "Be brief.")
    assert [role for role, _ in texts(without)] == ["user", "assistant"]


@pytest.mark.parametrize("replace", [True, False])
def test_system_prompt_of_the_source(replace: bool) -> None:
    row = chat("Hi", "Yes")
    row["messages"].insert(0, {"role": "developer", "content": "Be nice."})
    found = only(jsonl([row]), replace_system_prompt=replace)
    assert [role for role, _ in texts(found)] == (["user", "assistant"] if replace else ["system", "user", "assistant"])


def test_tools_weights_text_parts_and_what_an_api_adds() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What "}, {"type": "text", "text": "time?"}]},
            {"role": "assistant", "content": "Hm.", "weight": 0, "refusal": None, "annotations": []},
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
            {"role": "assistant", "content": "Noon\r\nsharp", "weight": 1},
        ],
        "tools": [{"type": "function", "function": {"name": "now"}}],
        "task_type": "time",
        "id": 7,
    }
    found = only(jsonl([row]))
    assert found.messages[0].content == "What time?"
    assert [m.weight for m in found.messages] == [None, 0.0, None, None, None, None]
    assert found.messages[3].tool_calls == [call]
    assert (found.answer, found.task_type, found.tools) == ("Noon\nsharp", "time", row["tools"])
    assert Example.from_record(found.record()) == found


def test_content_is_not_changed() -> None:
    said = "  e\u0301 \u00e9 \ufeff\t "
    assert only(jsonl([chat(said, said)])).answer == said


U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}


@pytest.mark.parametrize(
    ("line", "reason", "says"),
    [
        (b'{"messages": [', "invalid_json", "not JSON at column 15"),
        (b'{"messages": NaN}', "invalid_json", "NaN is no JSON number"),
        (b'{"messages": 1e999}', "invalid_json", "too large a number"),
        (b"[" * 100_000, "invalid_json", "nested too deeply"),
        (b'{"messages": "\xff"}', "not_utf8", "byte 15 of the line is not UTF-8"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not_utf8", "surrogate"),
        (b'"text"', "wrong_type", "the line is a string"),
        ({"messages": []}, "empty_content", "messages is an empty list"),
        ({"messages": "Hi"}, "wrong_type", "messages is a string"),
        ({"messages": ["Hi"]}, "wrong_type", "messages[0] is a string"),
        (
            {"messages": [U, {**A, "role": "asistant"}]},
            "unknown_role",
            '[1].role is "asistant"; did you mean "assistant"?',
        ),
        ({"messages": [U, {"content": "x"}]}, "unknown_role", "messages[1].role is missing"),
        ({"messages": [U, {**A, "role": ["user"]}]}, "unknown_role", 'role is ["user"]'),
        ({"messages": [U, {**A, "role": "bot"}]}, "unknown_role", "must be one of system, user, assistant, tool"),
        ({"messages": [U, {**A, "contnet": "x"}]}, "unknown_key", 'the unknown key "contnet"; did you mean "content"?'),
        ({"messages": [U, {"role": "assistant"}]}, "empty_content", "messages[1].content is missing or null"),
        ({"messages": [U, {**A, "content": 3}]}, "wrong_type", "messages[1].content is a number; it must be a string"),
        ({"messages": [{**U, "content": [{"type": "image_url"}]}, A]}, "wrong_type", "content[0] is not a text part"),
        ({"messages": [U, {**A, "weight": 0.5}]}, "wrong_type", "weight is 0.5; it must be 0 or 1"),
        ({"messages": [{**U, "weight": 0}, A]}, "unknown_key", "only assistant messages have one"),
        ({"messages": [U, {**A, "weight": 0}]}, "no_assistant_turn", "weight 0"),
        ({"messages": [U]}, "no_assistant_turn", "no assistant message"),
        ({"messages": [A]}, "no_user_turn", "no user message"),
        ({"messages": [U, A, U]}, "last_turn_not_assistant", 'messages[2].role is "user"'),
        ({"messages": [U, A], "tols": []}, "unknown_key", 'unknown key "tols"; did you mean "tools"?'),
        ({"messages": [U, A], "tools": ["f"]}, "wrong_type", "tools must be a list of objects"),
        ({"mesages": [U, A]}, "missing_key", '"messages" is missing; the row has "mesages"; is "mesages" meant?'),
    ],
)
def test_a_bad_row_is_set_aside_with_its_place(line: bytes | dict[str, Any], reason: str, says: str) -> None:
    data = line if isinstance(line, bytes) else json.dumps(line).encode()
    good = jsonl([chat("a", "b")])
    first, second, third = read(good + data + b"\n" + good)
    assert isinstance(first, Example) and isinstance(third, Example)
    assert isinstance(second, Rejected)
    assert (second.reason, second.stage, second.source_uri, second.source_row) == (reason, "parse", "raw/rows.x", 2)
    assert second.detail.startswith("raw/rows.x:2: ")
    assert says in second.detail
    assert len(second.content) <= REJECTED_CONTENT_CHARS


def test_deep_tools_are_refused_before_they_overflow() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"a": [deep]}
    row = only(jsonl([chat("a", "b", tools=[deep])]))
    assert (row.reason, "deeper than 32" in row.detail) == ("wrong_type", True)


@pytest.mark.parametrize(
    ("data", "options", "says", "mend"),
    [
        (
            jsonl([{"prompt": "a", "completion": "b"}] * 3),
            {},
            ":1: the source's format is messages, but the file looks like prompt_completion",
            "format: prompt_",
        ),
        (b"q,a\n1,2\n", {}, ":1: the source's format is messages, but the file looks like CSV", "set format: csv"),
        (b'[\n{"messages": []},\n]\n', {}, "one JSON document over many lines", "one JSON object a line"),
        (jsonl([chat("a", "b")]), CSV, "format is csv, but the file looks like JSON lines", "set format: messages"),
        (b"\n \n", {}, "the file is empty", "put rows into it"),
        (b"question,answer\n", CSV, "has a header and no rows", "put rows into it"),
        ("[]".encode("utf-16"), {}, ":1: the file is UTF-16", "save it as UTF-8"),
        (
            b"qestion,answer\n1,2\n",
            CSV,
            'rows.x:1: column "question" is not in the header (qestion, answer); did you mean "qestion"?',
            "columns.prompt",
        ),
        (b"question;answer\n1;2\n", CSV, "separated by semicolons", "columns.prompt"),
        (b"question,question,answer\n1,2,3\n", CSV, "stands in the header 2 times", "columns.prompt"),
        (
            b'question,answer\n1,2\n3,"4\n5,6\n',
            CSV,
            "raw/rows.x:3: a quote opened here is never closed",
            "close the quote",
        ),
        (b"\xff,answer\n1,2\n", CSV, "raw/rows.x:1: the header cannot be read", "correct the first line"),
    ],
)
def test_a_wrong_file_says_what_it_looks_like(data: bytes, options: dict[str, Any], says: str, mend: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(data, **options)
    assert "raw/rows.x" in caught.value.problem
    assert says in caught.value.problem
    assert mend in caught.value.mend


def test_two_formats_in_one_file() -> None:
    mixed = jsonl([chat("a", "b")] * 8 + [{"prompt": "a", "completion": "b"}] * 2)
    rows = read(mixed, share=0.2)
    assert [row.reason for row in rows if isinstance(row, Rejected)] == ["mixed_format"] * 2
    with pytest.raises(BadInput) as caught:
        read(mixed, share=0.1)
    assert "two formats in one file: messages first at line 1, another at 2 of 10 rows" in caught.value.problem
    assert "raw/rows.x:9: this row looks like prompt_completion" in caught.value.problem
    assert "split the file in two" in caught.value.mend


def test_csv_rows_that_cannot_be_read() -> None:
    data = b'question,answer\n1\n"a"b,2\n\xff,3\n' + b"x" * 2_000 + b",4\n5,6\n"
    rows = read(data, max_line_mb=0.001, **CSV)
    assert [(r.reason, r.source_row) for r in rows if isinstance(r, Rejected)] == [
        ("wrong_columns", 2),
        ("invalid_csv", 3),
        ("not_utf8", 4),
        ("line_too_long", 5),
    ]
    assert [r.source_row for r in rows if isinstance(r, Example)] == [6]


def test_record_tells_of_the_file() -> None:
    import hashlib

    data = jsonl([chat("a", "b"), {"x": 1}])
    one = reader(data)
    list(one.read())
    assert one.record.model_dump() == {
        "uri": "raw/rows.x",
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": "messages",
        "rows": 1,
        "rejected": 1,
    }


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
roles = st.sampled_from(["system", "user", "assistant", "tool", "developer", "asistant"])
messages = st.fixed_dictionaries(
    {"role": roles | values, "content": values}, optional={"weight": values, "tool_calls": values, "x": values}
)
rows_of_any_kind = st.fixed_dictionaries(
    {},
    optional={
        key: st.lists(messages, max_size=4) | values
        for key in ("messages", "prompt", "completion", "input", "ideal", "tools", "task_type", "group")
    }
    | {"chosen": st.lists(messages, max_size=4) | values, "rejected": st.lists(messages, max_size=4) | values}
    | {"label": st.booleans() | values, "text": values},
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.binary(max_size=40) | rows_of_any_kind.map(lambda row: json.dumps(row).encode()), max_size=6),
    st.sampled_from(["messages", "prompt_completion", "input_ideal", "preference", "unpaired_preference"]),
)
@example([b"\xff\xfe", b"{}"], "messages")
@example([b"\x0b", b"\x1c", b"\xc2\xa0"], "messages")
def test_every_line_is_a_row_or_a_rejection(lines: list[bytes], fmt: str) -> None:
    data = b"\n".join(lines)
    found: list[Example | Rejected] = []
    try:
        found.extend(reader(data, format=fmt, optional=True).read())
    except BadInput as error:
        # Only a file that is wrong as a whole ends in an error, and it names itself.
        assert "raw/rows.x" in error.problem
        return
    unmarked = data.removeprefix(b"\xef\xbb\xbf")
    assert len(found) == sum(1 for line in unmarked.split(b"\n") if line.strip())
    for row in found:
        if isinstance(row, Example):
            record = row.record()
            assert Example.from_record(record).example_id == record["example_id"]
            canonical_json(record).encode()
        else:
            assert row.detail.startswith(f"raw/rows.x:{row.source_row}: ")
            "".join(map(str, row)).encode()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text('ab",\r\n', max_size=60).map(str.encode))
def test_any_bytes_are_csv_or_told_why_not(data: bytes) -> None:
    try:
        found = read(b"question,answer\n" + data, optional=True, **CSV)
    except BadInput as error:
        assert error.problem.startswith("raw/rows.x")
        return
    for row in found:
        canonical_json(row.record() if isinstance(row, Example) else row._asdict()).encode()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=5))
def test_csv_reads_what_a_writer_wrote(pairs: list[tuple[str, str]]) -> None:
    import csv

    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("question", "answer"), *pairs])
    found = read(stream.getvalue().encode("utf-8", "replace"), **CSV)
    expected = [[part.encode("utf-8", "replace").decode().replace("\r\n", "\n") for part in pair] for pair in pairs]
    assert [[m.content for m in row.messages] for row in found if isinstance(row, Example)] == expected
