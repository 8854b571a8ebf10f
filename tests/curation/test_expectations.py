"""Expectations: each one fails when its thing is broken and only then; the page is complete in itself."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from example_rows import MakeTask, chat, count_words, jsonl, tickets_task

from finetune_platform.curation.collect import collect
from finetune_platform.curation.curate import curate
from finetune_platform.curation.data_docs import publish_docs
from finetune_platform.curation.expectation_frames import dataset_frame, raw_frame
from finetune_platform.curation.expectations import SuiteName, expectations, validate
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.task import Task

if TYPE_CHECKING:
    import pandas as pd

Break = Callable[["pd.DataFrame"], "pd.DataFrame"]

Frames = dict[SuiteName, "pd.DataFrame"]


class Made(NamedTuple):
    """A raw and a curated artifact of 200 good rows."""

    task: Task
    lake: Lake
    dataset: DatasetManifest
    frames: Frames


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("expectations")
    rows = [
        chat(f"{a} {b} {c}?", f"[{a}]", task_type=a) for a in ("ka", "lo") for b in "abcdefghij" for c in "klmnopqrst"
    ]
    (folder / "rows.jsonl").write_bytes(jsonl(rows))
    evaluation = {"output_pattern": r"^\[.+\]$"}
    task = tickets_task(folder, evaluation=evaluation, test_share=0.3, validation_share=0.2)
    lake = Lake(str(folder / "lake"))
    raw = collect(task, lake, folder, print)
    dataset = curate(task, raw, lake, count_words, "words", print)
    return Made(task, lake, dataset, {"raw": raw_frame(lake, raw), "curated": dataset_frame(lake, dataset)})


@pytest.mark.parametrize("suite", ["raw", "curated"])
def test_good_rows_pass_every_declared_check(suite: SuiteName, made: Made, tmp_path: Path) -> None:
    outcomes = validate(made.frames[suite], suite, made.task, tmp_path / "docs")
    assert [(o.name, o.blocking, o.description) for o in outcomes] == [
        (e.name, e.blocking, e.description) for e in expectations(suite, made.task)
    ]
    assert [o.name for o in outcomes if not o.passed] == []
    assert "All " in (tmp_path / "docs" / "index.html").read_text()


def first_row(**values: object) -> Break:
    def change(frame: "pd.DataFrame") -> "pd.DataFrame":
        for column, value in values.items():
            frame[column] = frame[column].astype(object)
            frame.loc[0, column] = value
        return frame

    return change


def every_row(**values: object) -> Break:
    return lambda frame: frame.assign(**values)


@pytest.mark.parametrize(
    ("suite", "broken", "breaks"),
    [
        ("raw", "messages_present", first_row(messages=None)),
        ("raw", "kind_known", first_row(kind="video")),
        ("raw", "label_source_known", first_row(label_source="guessed")),
        ("raw", "source_uri_present", first_row(source_uri="")),
        ("raw", "source_row_positive", first_row(source_row=0)),
        ("raw", "answers_present", every_row(emptiness="empty_answer")),
        ("raw", "prompt_length", every_row(prompt_chars=10**6)),
        ("raw", "enough_rows", lambda frame: frame.head(2)),
        ("raw", "share_read", every_row(kept_share=0.5)),
        ("raw", "answer_format", every_row(said="none")),
        ("curated", "example_id_unique", lambda frame: frame.assign(example_id=frame["example_id"].iloc[0])),
        ("curated", "answers_present", first_row(emptiness="empty_answer")),
        ("curated", "prompts_present", first_row(emptiness="empty_prompt")),
        ("curated", "splits_known", first_row(split="dev")),
        ("curated", "splits_complete", lambda frame: frame[frame["split"] != "test"]),
        ("curated", "groups_in_one_split", first_row(group_splits=2)),
        ("curated", "share_kept", every_row(kept_share=0.4)),
        ("curated", "strata_testable", first_row(stratum_test_rows=3)),
    ],
)
def test_each_check_fails_alone(suite: SuiteName, broken: str, breaks: Break, made: Made, tmp_path: Path) -> None:
    outcomes = validate(breaks(made.frames[suite].copy()), suite, made.task, tmp_path)
    assert [o.name for o in outcomes if not o.passed] == [broken]
    (failed,) = [o for o in outcomes if not o.passed]
    assert failed.observed
    page = (tmp_path / "index.html").read_text()
    assert ("1 of" in page) and ("✗ blocks" if failed.blocking else "! warns") in page


def test_a_group_in_two_splits_is_recomputed_from_the_rows(made: Made, tmp_path: Path) -> None:
    """Not from `group_id` alone: a wrong one must not hide a leak."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(made.lake.url, tmp_path / "lake")
    lake = Lake(str(tmp_path / "lake"))
    train, test = (Path(lake.url_of(f"{made.dataset.path}/{split}.parquet")) for split in ("train", "test"))
    leaked = pq.read_table(train).slice(0, 1)
    leaked = leaked.set_column(leaked.schema.get_field_index("group_id"), "group_id", pa.array(["gr-other"]))
    pq.write_table(pa.concat_tables([pq.read_table(test), leaked]), test)
    assert made.frames["curated"]["group_splits"].max() == 1
    assert dataset_frame(lake, made.dataset)["group_splits"].max() == 2


def test_a_missing_column_is_a_failed_check_that_says_why(made: Made, tmp_path: Path) -> None:
    outcomes = validate(made.frames["raw"].drop(columns="label_source"), "raw", made.task, tmp_path)
    (failed,) = [o for o in outcomes if not o.passed]
    assert (failed.name, "label_source" in failed.observed["error"]) == ("label_source_known", True)


def test_the_page_is_complete_in_itself_and_goes_to_the_lake(made: Made, tmp_path: Path, lake: Lake) -> None:
    rows = made.frames["raw"].assign(answer="<script>alert(1)</script>")
    validate(rows, "raw", made.task, tmp_path / "docs")
    url = publish_docs(lake, tmp_path / "docs", "tickets/data_docs/raw-1")
    page = lake.get("tickets/data_docs/raw-1/index.html").decode()
    assert url == lake.url_of("tickets/data_docs/raw-1/index.html")
    assert not re.findall(r"""(?:src|href)=["'](?!#)|url\(|@import""", page)
    assert "<script>alert" not in page
    assert "tickets: raw rows" in page


def test_without_a_pattern_there_is_no_check_of_it(make_task: MakeTask) -> None:
    names = {e.name for suite in ("raw", "curated") for e in expectations(suite, make_task())}  # type: ignore[arg-type]
    assert "answer_format" not in names


def test_names_cost_nothing_to_declare() -> None:
    code = (
        "import sys; import finetune_platform.curation.expectations, finetune_platform.curation.expectation_suites; "
        "heavy = {'great_expectations', 'pandas', 'daft', 'torch', 'transformers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
