"""Collecting sources: where they may lie, what is written, and how bad input ends, with nothing half-written."""

import json
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from example_rows import MakeTask, Write, chat, jsonl

from finetune_platform.curation.collect import collect
from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import RawManifest
from finetune_platform.rows import EXAMPLE_SCHEMA, REJECTED_SCHEMA, Example
from finetune_platform.task import Task

GOOD = jsonl([chat(f"question {n}", f"answer {n}") for n in range(10)])


def run(task: Task, lake: Lake) -> RawManifest:
    return collect(task, lake, Path("unused"), lambda line: None)


def rows_of(lake: Lake, raw: RawManifest, name: str = "examples") -> list[dict[str, object]]:
    return lake.dataframe(f"{raw.path}/{name}.parquet").to_arrow().to_pylist()


def test_rows_and_rejections_are_published_with_their_places(make_task: MakeTask, write: Write, lake: Lake) -> None:
    write("rows.jsonl", GOOD + b"oops\n")
    lines: list[str] = []
    raw = collect(make_task(), lake, Path("unused"), lines.append)

    assert raw == lake.manifest(RawManifest, f"tickets/raw_examples/{raw.artifact_id}")
    assert (raw.rows, raw.funnel[0].rows_in, raw.funnel[0].reasons) == (10, 11, {"invalid_json": 1})
    assert [Example.from_record(row).answer for row in rows_of(lake, raw)] == [f"answer {n}" for n in range(10)]
    (refused,) = rows_of(lake, raw, "rejected")
    assert (refused["source_uri"], refused["source_row"], refused["content"]) == ("rows.jsonl", 11, "oops")
    assert "rows.jsonl: 10 rows read, 1 set aside" in lines


def test_same_input_same_id_and_nothing_written_twice(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", GOOD)
    first, before = run(make_task(), here), here.list("")
    second = run(make_task(), here)
    assert (second, here.list("")) == (first, before)
    write("rows.jsonl", GOOD + jsonl([chat("one", "more")]))
    assert run(make_task(), here).artifact_id != first.artifact_id


def test_columns_are_the_contract(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", GOOD)
    folder = Path(here.url_of(run(make_task(), here).path))
    assert pq.read_schema(folder / "examples.parquet") == EXAMPLE_SCHEMA
    assert pq.read_schema(folder / "rejected.parquet") == REJECTED_SCHEMA


@pytest.mark.parametrize(
    ("uri", "files"),
    [
        ("data/a.jsonl", ["data/a.jsonl"]),
        ("data/", ["data/a.jsonl", "data/sub/b.ndjson"]),
        ("data", ["data/a.jsonl", "data/sub/b.ndjson"]),
        ("data/*.jsonl", ["data/a.jsonl"]),
        ("data/**/*.ndjson", ["data/sub/b.ndjson"]),
        ("../project/data/a.jsonl", ["data/a.jsonl"]),
    ],
)
def test_files_folders_and_globs(uri: str, files: list[str], make_task: MakeTask, write: Write, here: Lake) -> None:
    for name in ("data/a.jsonl", "data/sub/b.ndjson", "data/notes.txt", "data/.hidden.jsonl", "data/_tmp/c.jsonl"):
        write(name, GOOD)
    raw = run(make_task({"uri": uri, "format": "messages"}), here)
    assert [source.uri for source in raw.sources] == files


def test_an_absolute_path_and_a_file_url(folder: Path, make_task: MakeTask, write: Write, here: Lake) -> None:
    path = write("my data/a.jsonl", GOOD)
    for uri in (str(path), path.as_uri()):
        assert run(make_task({"uri": uri, "format": "messages"}), here).rows == 10


@pytest.mark.parametrize(
    "uri",
    [
        "lake:tickets/raw/",
        "lake:tickets/raw",
        "lake:tickets/raw/a.jsonl",
        "lake:tickets/raw/*.jsonl",
        "lake:tickets/**/a*.jsonl",
    ],
)
def test_sources_in_the_lake(uri: str, make_task: MakeTask, lake: Lake) -> None:
    lake.put("tickets/raw/a.jsonl", GOOD)
    lake.put("tickets/raw/readme.txt", b"hello")
    lake.put("tickets/raw/_unfinished/b.jsonl", b"{")
    raw = run(make_task({"uri": uri, "format": "messages"}), lake)
    assert [(s.uri, s.rows) for s in raw.sources] == [("lake:tickets/raw/a.jsonl", 10)]


@pytest.mark.parametrize("path", ["in/box", "in/box/", "in/box/a.jsonl", "in/*/a.jsonl"])
def test_sources_in_another_bucket(path: str, s3_url: str, make_task: MakeTask, here: Lake) -> None:
    Lake(s3_url).put("in/box/a.jsonl", GOOD)
    raw = run(make_task({"uri": f"{s3_url}/{path}", "format": "messages"}), here)
    assert [(s.uri, s.rows) for s in raw.sources] == [(f"{s3_url}/in/box/a.jsonl", 10)]


def test_strata_by_rules_but_the_sources_own_first(make_task: MakeTask, write: Write, here: Lake) -> None:
    rows = [chat("refund please", "no"), chat("hello", "hi"), chat("refund me", "no", task_type="special")]
    write("rows.jsonl", jsonl(rows))
    rules = [
        {"field": "task_type", "value": "refund", "prompt_matches": "^refund"},
        {"field": "task_type", "value": "other"},
        {"field": "difficulty", "value": "hard", "prompt_matches": "me$", "answer_matches": "no"},
    ]
    found = rows_of(here, run(make_task(strata=rules), here))
    assert [(r["task_type"], r["difficulty"]) for r in found] == [("refund", ""), ("other", ""), ("special", "hard")]


def test_optional_sources_may_be_missing_or_empty(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", GOOD)
    write("later.jsonl", b"")
    sources = [
        {"uri": uri, "format": "messages", "optional": True} for uri in ("lake:tickets/raw/", "no", "later.jsonl")
    ]
    assert run(make_task({"uri": "rows.jsonl", "format": "messages"}, *sources), here).rows == 10
    with pytest.raises(BadInput, match="there is not one row to learn from"):
        run(make_task(*sources), here)
    with pytest.raises(BadInput, match="none of the 1 sources has a file"):
        run(make_task(sources[0]), here)


def test_a_packaged_source(make_task: MakeTask, here: Lake, package_cache: Path) -> None:
    source = {
        "uri": "package://evals==3.0.1.post1/evals/registry/data/ner_finance/samples.jsonl",
        "sha256": "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
        "format": "input_ideal",
    }
    raw = collect(make_task(source), here, package_cache, lambda line: None)
    assert (raw.rows, raw.sources[0].rejected) == (1164, 0)
    assert [json.loads(str(row["messages"]))[0]["role"] for row in rows_of(here, raw)[:5]] == ["user"] * 5


def expect_refusal(task: Task, lake: Lake, *says: str) -> None:
    with pytest.raises(BadInput) as caught:
        run(task, lake)
    for text in says:
        assert text in str(caught.value)
    assert caught.value.mend
    assert not lake.list("tickets/raw_examples")


@pytest.mark.parametrize("prefix", ["", "lake:"])
def test_missing_file_names_the_nearest(prefix: str, make_task: MakeTask, write: Write, here: Lake) -> None:
    write("data/tickets.jsonl", GOOD)
    here.put("data/tickets.jsonl", GOOD)
    task = make_task({"uri": f"{prefix}data/tikets.jsonl", "format": "messages"})
    expect_refusal(
        task, here, f"{prefix}data/tikets.jsonl: no such file", 'did you mean "tickets.jsonl"?', "optional: true"
    )
    here.delete("data")


def test_empty_file(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", b"")
    expect_refusal(make_task(), here, "rows.jsonl: the file is empty", "take it out of sources")


def test_too_many_bad_rows_name_the_most_frequent_reasons_with_first_places(
    make_task: MakeTask, write: Write, here: Lake
) -> None:
    wrong_role = {"messages": [{"role": "user", "content": "a"}, {"role": "asistant", "content": "b"}]}
    no_answer = {"messages": [{"role": "user", "content": "a"}]}
    write("rows.jsonl", GOOD + jsonl([wrong_role] * 3 + [no_answer] * 2) + b"{oops\n")
    expect_refusal(
        make_task(max_rejected_share=0.3),
        here,
        "6 of 16 rows cannot be read; curation.max_rejected_share is 0.3",
        '3 x unknown_role, first rows.jsonl:11: messages[1].role is "asistant"; did you mean "assistant"?',
        "2 x no_assistant_turn, first rows.jsonl:14: messages has no assistant message",
        "1 x invalid_json, first rows.jsonl:16: not JSON at column 2",
        "raise curation.max_rejected_share",
    )
    assert run(make_task(max_rejected_share=0.4), here).funnel[0].reasons["unknown_role"] == 3


def test_bytes_that_are_not_utf8(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", GOOD.replace(b"question", "frage f\xfcr".encode("latin-1")))
    expect_refusal(make_task(), here, "10 x not_utf8, first rows.jsonl:1: byte", "save the file as UTF-8")


def test_two_formats_mixed(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", GOOD + jsonl([{"prompt": "a", "completion": "b"}] * 10))
    expect_refusal(make_task(), here, "rows.jsonl: two formats in one file", "rows.jsonl:11:", "split the file in two")


def test_a_hundred_megabyte_line_is_set_aside_in_bounded_memory(
    folder: Path, make_task: MakeTask, write: Write, here: Lake
) -> None:
    path = write("rows.jsonl", GOOD)
    with path.open("ab") as stream:
        stream.write(b'{"messages": "')
        for _ in range(100):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"}\n' + GOOD)
    tracemalloc.start()
    raw = run(make_task(max_line_mb=4.0), here)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    (refused,) = rows_of(here, raw, "rejected")
    assert raw.rows == 20
    assert (refused["source_row"], refused["reason"]) == (11, "line_too_long")
    assert "rows.jsonl:11: the line has 100,000,016 bytes (100.0 MB); curation.max_line_mb" in str(refused["detail"])
    assert peak < 25_000_000
