"""Preferences and texts on their way into a dataset: every step treats each kind as what it is."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_rows import MakeTask, Write, chat, count_words, jsonl

from finetune_platform.curation.collect import collect
from finetune_platform.curation.curate import curate
from finetune_platform.curation.expectation_frames import dataset_frame, raw_frame
from finetune_platform.curation.expectations import validate
from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DatasetManifest, LabelsManifest
from finetune_platform.rows import LABELS_NAME, SPLITS
from finetune_platform.task import Task

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ba", "de", "fi")]
QUESTIONS = [f"Where is the {a} {b}?" for a in WORDS for b in WORDS]
CHATS = [chat(question, "[here]", task_type="place") for question in QUESTIONS]
SOURCES = [
    {"uri": "rows.jsonl", "format": "messages"},
    {"uri": "pairs.jsonl", "format": "preference"},
    {"uri": "judged.jsonl", "format": "unpaired_preference"},
    {"uri": "guides/", "format": "text", "optional": True},
]


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def judged(prompt: str, completion: str, label: bool) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "label": label}


PAIRS = [pair(question, "[here]", f"over there, {n}") for n, question in enumerate(QUESTIONS[::2])]
JUDGED = [judged(question, "[there]", False) for question in QUESTIONS[::3]]
TEXTS = [{"text": f"The {word} stands here.\n" * 40} for word in WORDS]


@pytest.fixture
def write_sources(write: Write) -> Any:
    def write_all(
        rows: list[Any] = CHATS, pairs: list[Any] = PAIRS, judged: list[Any] = JUDGED, texts: list[Any] = TEXTS
    ) -> None:
        write("rows.jsonl", jsonl(rows))
        write("pairs.jsonl", jsonl(pairs))
        write("judged.jsonl", jsonl(judged))
        write("guides/many.jsonl", jsonl(texts))

    return write_all


def run(task: Task, lake: Lake, labels: LabelsManifest | None = None) -> DatasetManifest:
    raw = collect(task, lake, Path("unused"), print, labels)
    return curate(task, raw, lake, count_words, "words", print)


def refused(lake: Lake, dataset: DatasetManifest) -> list[tuple[str, str]]:
    rows = lake.dataframe(f"{dataset.path}/rejected.parquet").to_pylist()
    return [(row["reason"], row["detail"]) for row in rows]


def test_every_kind_comes_through_and_a_prompt_stands_in_one_split(
    make_task: MakeTask, write: Write, write_sources: Any, here: Lake
) -> None:
    write_sources()
    write("guides/one.md", b"# A guide\r\n" + b"word " * 500)
    write("guides/nothing.txt", b"")
    dataset = run(make_task(*SOURCES, max_tokens=60), here)
    assert refused(here, dataset) == [("empty_text", "guides/nothing.txt:1: the text is empty or only white space")]

    rows = {split: here.dataframe(f"{dataset.path}/{split}.parquet").to_pylist() for split in SPLITS}
    counted = {
        kind: sum(record.kinds.get(kind, 0) for record in dataset.splits.values())
        for kind in ("sft", "preference", "unpaired_preference", "text")
    }
    assert counted == {"sft": 144, "preference": 72, "unpaired_preference": 48, "text": 13}
    for split in SPLITS:
        assert sum(dataset.splits[split].kinds.values()) == dataset.splits[split].rows == len(rows[split])
    where: dict[str, set[str]] = {}
    for split in SPLITS:
        for row in rows[split]:
            if row["kind"] != "text":
                where.setdefault(json.loads(row["prompt"])[0]["content"], set()).add(split)
    assert len(where) == 144 and all(len(splits) == 1 for splits in where.values())
    longest = max((r for split in SPLITS for r in rows[split] if r["kind"] == "text"), key=lambda row: len(row["text"]))
    assert (longest["source_uri"], longest["text"][:12]) == ("guides/one.md", "# A guide\nwo")
    assert dataset.tokens["max"] < 60 < 503 + 12 * 160 == dataset.tokens["text"]
    assert sum(dataset.strata["task_type=place"].values()) == 144


def test_conversations_make_the_dataset_that_they_made_before_there_were_kinds(
    make_task: MakeTask, write: Write, here: Lake
) -> None:
    write("rows.jsonl", jsonl(CHATS))
    task = make_task()
    raw = collect(task, here, Path("unused"), print)
    dataset = curate(task, raw, here, count_words, "words", print)
    # A changed value would make every dataset anew and every adapter's data unknown.
    assert dataset.artifact_id == "ds-f9308c85470c"
    before = pq.read_table(pa.BufferReader(here.get(f"{raw.path}/examples.parquet"))).drop_columns("desirable")
    stream = pa.BufferOutputStream()
    pq.write_table(before, stream)
    here.put(f"{raw.path}/examples.parquet", stream.getvalue().to_pybytes())
    again = curate(task, raw, here, count_words, "other words", print)
    assert [again.splits[split].rows for split in SPLITS] == [dataset.splits[split].rows for split in SPLITS]


def test_what_each_step_sets_aside_of_each_kind(make_task: MakeTask, write_sources: Any, here: Lake) -> None:
    odd = [
        pair("Swapped?", "yes", "no"),
        pair("Swapped?", "no", "yes"),
        pair("Many?", "one", "two"),
        pair("Many?", "two", "three"),
        pair("Empty?", "one", "  "),
        pair("Long?", "one", "word " * 80),
        PAIRS[0],
    ]
    rated = [judged("Both?", "yes", True), judged("Both?", "yes", False), judged("Both?", "no", False)]
    write_sources(pairs=PAIRS + odd, judged=JUDGED + rated, texts=[*TEXTS, {"text": " \n"}, TEXTS[0]])
    dataset = run(make_task(*SOURCES, max_tokens=60), here)
    assert sorted(detail for _, detail in refused(here, dataset)) == sorted(
        [
            "pairs.jsonl:73: the same two answers are preferred the other way round at pairs.jsonl:74",
            "pairs.jsonl:74: the same two answers are preferred the other way round at pairs.jsonl:73",
            "pairs.jsonl:77: the rejected answer is empty or only white space",
            "pairs.jsonl:78: 83 tokens with the system prompt; curation.max_tokens is 60",
            "pairs.jsonl:79: the same row stands at pairs.jsonl:1",
            "judged.jsonl:49: the same answer is judged the other way at judged.jsonl:50",
            "judged.jsonl:50: the same answer is judged the other way at judged.jsonl:49",
            "guides/many.jsonl:13: the text is empty or only white space",
            "guides/many.jsonl:14: the same row stands at guides/many.jsonl:1",
        ]
    )
    content = {
        row["source_row"]: row["content"]
        for row in here.dataframe(f"{dataset.path}/rejected.parquet").to_pylist()
        if row["source_uri"] == "pairs.jsonl"
    }
    assert '"yes"' in content[73] and "rejected: {" in content[73] and '"no"' in content[73]


def test_a_label_replaces_preferences_that_disagree_with_it(
    make_task: MakeTask, write_sources: Any, here: Lake, tmp_path: Path
) -> None:
    said = [pair("Ask?", "right", "bad"), pair("Ask?", "wrong", "right")]
    rated = [
        judged("Ask?", "right", True),
        judged("Ask?", "other", True),
        judged("Ask?", "wrong", False),
        judged("Ask?", "right ", False),
    ]
    write_sources(pairs=PAIRS + said, judged=JUDGED + rated)
    label = {
        "label_id": "lb-1",
        "label_from": "expert",
        "batch_id": "rb-1",
        "number": 1,
        "messages": json.dumps([{"role": "user", "content": "Ask?"}]),
        "answer": "right",
    }
    labels = LabelsManifest(
        artifact_id="ls-1", task="tickets", code_version="1", rows=1, by_source={}, replaced=0, distrusted=0,
        batches=["rb-1"], alpha=None, alpha_lower=None, alpha_upper=None, hours=0.0, cost=0.0,
    )  # fmt: skip
    folder = tmp_path / "labels"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([label]), folder / LABELS_NAME)
    (folder / MANIFEST_NAME).write_bytes(labels.to_bytes())
    here.publish(folder, labels.path)
    dataset = run(make_task(*SOURCES), here, labels)
    assert sorted(detail.split(": ")[0] for _, detail in refused(here, dataset)) == [
        "judged.jsonl:50",
        "judged.jsonl:52",
        "pairs.jsonl:74",
    ]


def test_evaluation_needs_conversations_whatever_else_there_is(
    make_task: MakeTask, write_sources: Any, here: Lake
) -> None:
    write_sources(rows=CHATS[:20])
    with pytest.raises(BadInput) as caught:
        run(make_task(*SOURCES, min_rows=50), here)
    assert "but 20 rows of kind sft, beside 132 of other kinds are left" in caught.value.problem
    write_sources(texts=TEXTS[:1])
    with pytest.raises(BadInput) as caught:
        for seed in range(100):
            run(make_task(*SOURCES, seed=seed), here)
    assert "the train split has no row of kind text: 1 rows in 1 groups are left" in caught.value.problem
    assert caught.value.mend == "add rows of kind text, or change curation.seed"


@pytest.mark.parametrize("suite", ["raw", "curated"])
def test_the_checks_look_at_each_kind_as_what_it_is(
    suite: Any, make_task: MakeTask, write_sources: Any, here: Lake, tmp_path: Path
) -> None:
    # Unwanted and rejected answers have another format, and texts none: no check may complain of that.
    write_sources()
    evaluation = {"output_pattern": r"^\[here\]$"}
    task = make_task(*SOURCES, evaluation=evaluation, test_share=0.3, validation_share=0.2, min_rows=144)
    raw = collect(task, here, Path("unused"), print)
    dataset = curate(task, raw, here, count_words, "words", print)
    frame = raw_frame(here, raw) if suite == "raw" else dataset_frame(here, dataset)
    assert [o.name for o in validate(frame, suite, task, tmp_path / "docs") if not o.passed] == []

    def failed(**changes: Any) -> list[str]:
        broken = frame.assign(**changes)
        return [o.name for o in validate(broken, suite, task, tmp_path / "docs") if not o.passed]

    assert failed(answered=frame["answered"].where(frame.index > 0, 0)) == ["enough_rows"]
    if suite == "curated":
        assert failed(emptiness="empty_rejected") == ["answers_present"]
        assert failed(emptiness="empty_text") == ["prompts_present"]
        only_pairs = frame["split"].where(frame["kind"].eq("sft") & frame["split"].ne("test"))
        assert failed(answered_split=only_pairs) == ["splits_complete"]
