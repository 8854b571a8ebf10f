"""Curation: what each step sets aside and says, what the dataset holds, and that the same rows make the same id."""

import os
import pty
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from example_rows import MakeTask, Write, chat, count_words, jsonl

from finetune_platform.curation.collect import collect
from finetune_platform.curation.curate import curate
from finetune_platform.errors import BadInput
from finetune_platform.identity import file_sha256
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest, RawManifest
from finetune_platform.rows import EXAMPLE_SCHEMA, REJECTED_SCHEMA, SPLITS, Example
from finetune_platform.task import Task

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ba", "de", "fi", "go", "hu")]
MANY = [chat(f"Where is the {a} {b}?", a, task_type="ab"[len(a + b) % 2]) for a in WORDS for b in WORDS]


def silent(line: str) -> None:
    """Nobody listens."""


def run(task: Task, lake: Lake, model: str = "words") -> tuple[RawManifest, DatasetManifest]:
    raw = collect(task, lake, Path("unused"), silent)
    return raw, curate(task, raw, lake, count_words, model, silent)


def rejected(lake: Lake, dataset: DatasetManifest) -> list[dict[str, Any]]:
    return lake.dataframe(f"{dataset.path}/rejected.parquet").to_arrow().to_pylist()


def split_rows(lake: Lake, dataset: DatasetManifest, split: str) -> list[dict[str, Any]]:
    return lake.dataframe(f"{dataset.path}/{split}.parquet").to_arrow().to_pylist()


def test_dataset_holds_every_kept_row_once_with_its_funnel(make_task: MakeTask, write: Write, lake: Lake) -> None:
    bad = [chat("  ", "x"), chat("Long?", "word " * 50), MANY[0], chat("Which?", "this"), chat("Which?", "that")]
    write("rows.jsonl", jsonl(MANY + bad) + b"{oops\n")
    raw, dataset = run(make_task(max_tokens=40), lake)

    assert dataset.parents == {"raw_examples": raw.artifact_id}
    assert [(s.step, s.rows_in, s.rows_out, s.reasons) for s in dataset.funnel] == [
        ("parse", 406, 405, {"invalid_json": 1}),
        ("empty", 405, 404, {"empty_prompt": 1}),
        ("exact_duplicates", 404, 403, {"exact_duplicate": 1}),
        ("contradictions", 403, 401, {"contradiction": 2}),
        ("length", 401, 400, {"too_long": 1}),
    ]
    assert [row["detail"].split(": ", 1) for row in rejected(lake, dataset)] == [
        ["rows.jsonl:406", "not JSON at column 2: Expecting property name enclosed in double quotes"],
        ["rows.jsonl:401", "the prompt is empty or only white space"],
        ["rows.jsonl:403", "the same row stands at rows.jsonl:1"],
        ["rows.jsonl:404", "the same prompt has another answer at rows.jsonl:405"],
        ["rows.jsonl:405", "the same prompt has another answer at rows.jsonl:404"],
        ["rows.jsonl:402", "53 tokens with the system prompt; curation.max_tokens is 40"],
    ]
    assert dataset.rejected == 6

    rows = {split: split_rows(lake, dataset, split) for split in SPLITS}
    kept = [row["source_row"] for split in SPLITS for row in rows[split]]
    assert sorted(kept) == list(range(1, 401))
    for split in SPLITS:
        lines = [row["source_row"] for row in rows[split]]
        assert lines == sorted(lines)
        assert dataset.splits[split].rows == len(lines)
        assert dataset.splits[split].groups == len({row["group_id"] for row in rows[split]})
    assert Example.from_record(rows["train"][0]).example_id == rows["train"][0]["example_id"]


def test_files_and_statistics_are_what_the_manifest_says(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", jsonl(MANY))
    _, dataset = run(make_task(), here)
    folder = Path(here.url_of(dataset.path))
    for split in SPLITS:
        assert file_sha256(folder / f"{split}.parquet") == dataset.splits[split].sha256
        assert pq.read_schema(folder / f"{split}.parquet") == EXAMPLE_SCHEMA
    assert pq.read_schema(folder / "rejected.parquet") == REJECTED_SCHEMA
    # "Sort it." and "Where is the ka ba?" and the answer.
    assert dataset.tokens == {"p50": 8, "p95": 8, "max": 8, "total": 3200}
    assert set(dataset.strata) <= {"task_type=a", "task_type=b"}
    assert sum(n for counts in dataset.strata.values() for n in counts.values()) == 400


def test_same_rows_same_dataset_whatever_their_order(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", jsonl(MANY))
    _, first = run(make_task(), here)
    before = here.list("tickets/datasets")
    assert run(make_task(), here)[1] == first
    write("rows.jsonl", jsonl(random.Random(0).sample(MANY, len(MANY))))
    assert run(make_task(), here)[1] == first
    assert here.list("tickets/datasets") == before
    assert run(make_task(seed=1), here)[1].artifact_id != first.artifact_id
    assert run(make_task(), here, model="letters")[1].artifact_id != first.artifact_id


def test_new_rows_leave_old_ones_in_their_splits(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", jsonl(MANY[:250]))
    _, old = run(make_task(), here)
    write("rows.jsonl", jsonl(MANY))
    _, new = run(make_task(), here)
    for split in SPLITS:
        ids = [{row["example_id"] for row in split_rows(here, dataset, split)} for dataset in (old, new)]
        assert ids[0] < ids[1]


def test_all_places_of_a_contradiction(make_task: MakeTask, write: Write, here: Lake) -> None:
    disputed = [chat("Which?", f"{n}") for n in range(6)]
    write("rows.jsonl", jsonl(disputed + MANY))
    _, dataset = run(make_task(), here)
    details = [row["detail"] for row in rejected(here, dataset)]
    assert len(details) == 6
    assert details[0].endswith("at rows.jsonl:2, rows.jsonl:3, rows.jsonl:4 and 2 more")


def test_other_tools_or_weights_are_no_contradiction(make_task: MakeTask, write: Write, here: Lake) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = chat("Now?", "")
    calls["messages"][1] = {"role": "assistant", "tool_calls": [call]}
    turns = [*chat("a", "b")["messages"], *chat("c", "d")["messages"]]
    half = [{**m, "weight": 0} if m["content"] == "b" else m for m in turns]
    rows = [calls, chat("Now?", "noon", tools=[{"name": "g"}]), {"messages": turns}, {"messages": half}]
    write("rows.jsonl", jsonl(rows + MANY))
    _, dataset = run(make_task(), here)
    assert dataset.rejected == 0


def test_groups_named_by_the_source_are_not_cut(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", jsonl([{**row, "group": n % 30} for n, row in enumerate(MANY)]))
    _, dataset = run(make_task(validation_share=0.2), here)
    homes = {split: {row["group_id"] for row in split_rows(here, dataset, split)} for split in SPLITS}
    assert sum(len(groups) for groups in homes.values()) == 30
    assert not homes["train"] & homes["test"] and not homes["train"] & homes["validation"]


def test_a_row_brings_its_own_system_prompt(make_task: MakeTask, write: Write, here: Lake) -> None:
    row = chat("Hi", "Yes")
    row["messages"].insert(0, {"role": "system", "content": "one two three four five six"})
    write("rows.jsonl", jsonl([row, *MANY]))
    source = {"uri": "rows.jsonl", "format": "messages", "replace_system_prompt": False}
    assert run(make_task(source), here)[1].tokens["max"] == 8
    write(
        "rows.jsonl", jsonl([{"messages": [*row["messages"][:-1], {"role": "assistant", "content": "a b c"}]}, *MANY])
    )
    assert run(make_task(source), here)[1].tokens["max"] == 10


def test_three_rows_are_too_few(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", jsonl([chat("a", "b"), chat("a", "b"), chat("c", "")]))
    with pytest.raises(BadInput) as caught:
        run(make_task(min_rows=50), here)
    assert "tickets.yaml: curation.min_rows is 50, but 1 rows are left" in caught.value.problem
    assert "(3 rows read; left after parse 3, empty 2, exact_duplicates 1," in caught.value.problem
    assert "add rows to the sources" in caught.value.mend
    assert not here.list("tickets/datasets")


def test_a_split_without_rows(make_task: MakeTask, write: Write, here: Lake) -> None:
    write("rows.jsonl", jsonl([chat(f"Order {n}?", "x") for n in range(100)]))
    with pytest.raises(BadInput) as caught:
        run(make_task(), here)
    assert "split is empty: 100 rows in 1 groups are left (100 rows read" in caught.value.problem
    assert "add rows of other prompts" in caught.value.mend
    assert not here.list("tickets/datasets")


def test_daft_tells_nobody_and_says_nothing_on_a_terminal() -> None:
    code = (
        "import finetune_platform, daft; from daft.scarf_telemetry import opted_out; assert opted_out(); "
        "daft.from_pydict({'n': [1]}).collect()"
    )
    theirs, ours = pty.openpty()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=ours, stderr=ours)
    os.close(ours)
    with pytest.raises(OSError):  # A terminal whose other end is closed has nothing left to read.
        said = os.read(theirs, 1000)
        raise AssertionError(said)
    os.close(theirs)
