"""From an alarm to the next dataset in Dagster: a batch, answers, labels, rows; and the walk there and back."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from drifting_traffic import log, questions
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.database import Database
from finetune_platform.definitions import build_defs
from finetune_platform.labeling.answering import Annotation, annotate
from finetune_platform.labeling.batches import Batch, newest_batch, read_batch
from finetune_platform.lake import Lake
from finetune_platform.notifications.outbox import newest
from finetune_platform.rows import SPLITS
from finetune_platform.serving.interactions import DAY, FeedbackEvent
from finetune_platform.serving.stored_rows import stored, tables_of
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

TASK = "ticket_topics"


@pytest.fixture
def path(settings_env: Settings, task_file: Any, embedding_model: Path, tiny_model: Path) -> Path:
    drift = {"reference_rows": 120, "embedder": str(embedding_model), "settle_minutes": 0}
    labeling = {"budget": 20, "gold_share": 0}
    model = {"uri": str(tiny_model)}
    return Path(task_file(drift=drift, serving={"log_share": 1.0}, labeling=labeling, base_model=model))


def run(path: Path, job: str, *assets: str) -> dict[str, Any]:
    """Executes a job; the metadata of what it made last."""
    keys = [f"{TASK}/{asset}" for asset in assets]
    found = build_defs(tasks=[load_task(path)]).resolve_job_def(f"{TASK}_{job}")
    with DagsterInstance.ephemeral() as instance:
        result = found.execute_in_process(instance=instance, asset_selection=_selection(keys) or None)
        assert result.success
        made = result.get_asset_materialization_events()[-1]
        return {name: value.value for name, value in made.materialization.metadata.items()}


def _selection(keys: list[str]) -> list[Any]:
    from dagster import AssetKey

    return [AssetKey.from_user_string(key) for key in keys]


def command(*arguments: str) -> str:
    told = CliRunner().invoke(app, list(arguments))
    assert told.exit_code == 0, told.output + repr(told.exception)
    return told.stdout


def an_open_batch(place: Settings, path: Path, familiar: int = 0) -> Batch:
    """An alarm over a real log, and the batch it leads to; with the strange questions come some that are not."""
    lake, start = Lake(place.lake_url), datetime.now(UTC) - timedelta(days=5)
    home = questions("home", 180)
    log(lake, home, start)
    run(path, "drift")
    log(lake, questions("strange", 60) + questions("home", familiar), start + timedelta(days=2))
    assert run(path, "drift")["verdict"] == "alarm"
    made = run(path, "review")
    assert made["cause"].startswith("alarm rf-") and made["dagster/row_count"] == 20
    database = Database(place.database_url)
    batch_id = newest_batch(database, TASK)
    assert batch_id == made["id"]
    # Asked again, the same alarm has its batch.
    assert run(path, "review")["id"] == made["id"]
    kinds = [note.kind for note in newest(database, TASK, 9)]
    assert kinds.count("batch_waiting") == 1
    return read_batch(database, batch_id)


def test_an_alarm_becomes_rows_of_the_next_dataset_and_can_be_walked_both_ways(
    settings_env: Settings, path: Path
) -> None:
    batch = an_open_batch(settings_env, path)
    database, lake = Database(settings_env.database_url), Lake(settings_env.lake_url)
    selections = {row.item.selection for row in batch.rows}
    assert {"random", "novel"} <= selections
    assert all(0 < (row.item.inclusion_probability or 0) <= 1 for row in batch.rows)
    for row in batch.rows:
        for reviewer in ("ann", "bob")[: row.item.wanted]:
            annotate(database, batch.batch_id, row.number, reviewer, Annotation("answer", "travel", seconds=5))
    word = FeedbackEvent(
        interaction_id=_logged_home(lake), timestamp=datetime.now(UTC), task=TASK, adapter_id="base", arm="base",
        correction="card", key_id="k1",
    )  # fmt: skip
    for place, table in tables_of([stored(word, redact=False)]).items():
        lake.append(place, table, partition_by=DAY)

    run(path, "retrain", "expert_labels")
    labels = run(path, "retrain", "expert_labels")
    assert labels["labels by source"] == "expert 20, correction 1, accepted 0"
    raw = run(path, "retrain", "raw_examples")
    assert raw["labels"] == 21 and raw["parent/expert_labels"] == labels["id"]
    dataset = run(path, "retrain", "curated_dataset")

    one = batch.rows[0]
    assert one.interaction_id is not None
    walked = json.loads(command("trace", one.interaction_id, "--json"))
    assert [label["place"] for label in walked["labels"]] == [f"labels/{batch.batch_id}:{one.number}"]
    assert walked["labels"][0]["answer"] == "travel" and walked["datasets"][0]["dataset_id"] == dataset["id"]
    shown = command("trace", f"labels/{batch.batch_id}:{one.number}")
    assert one.interaction_id in shown and dataset["id"] in shown
    back = json.loads(command("lineage", dataset["id"], "--json", "--rows"))
    assets = [step["asset"] for step in back["steps"]]
    assert assets == [
        "curated_dataset",
        "raw_examples",
        "expert_labels",
        "review_batch",
        "drift_report",
        "drift_reference",
    ]
    places = {f"{row['source_uri']}:{row['source_row']}" for row in back["rows"]}
    assert f"labels/{batch.batch_id}:{one.number}" in places
    status = command("status", TASK)
    assert "raw_examples" in status


def test_rows_whose_answers_the_dataset_contradicts_are_hard(
    settings_env: Settings, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Answers that nobody wants and guides stand in the dataset too: neither is a known answer to compare with.
    asked = [json.loads(line)["prompt"] for line in (path.parent / "data/tickets.jsonl").read_text().splitlines()]
    unwanted = [{"prompt": prompt, "completion": "travel", "label": False} for prompt in asked]
    guides = [{"text": f"How to close a {word} account."} for word in ("new", "old", "lost", "shared")]
    written = yaml.safe_load(path.read_text())
    for fmt, rows in (("unpaired_preference", unwanted), ("text", guides)):
        (path.parent / f"{fmt}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        written["sources"].append({"uri": f"{fmt}.jsonl", "format": fmt})
    path.write_text(yaml.safe_dump(written))
    made = run(path, "chain", "raw_examples", "curated_dataset")
    assert sum(made[f"rows/{split}/text"] for split in SPLITS if f"rows/{split}/text" in made) == 4
    assert made["rows/train"] == 2 * made["rows/train/sft"] + made["rows/train/text"]
    batch = an_open_batch(settings_env, path, familiar=120)
    assert f"answers are compared with those of {made['rows/train/sft']} training rows" in capfd.readouterr().err
    hard = [row.item for row in batch.rows if row.item.selection == "hard"]
    assert len(hard) == 8
    assert not [item for item in hard if str(item.messages[-1].content).startswith(("My card", "The transfer"))]


def test_without_answers_there_is_no_label_to_train_on(settings_env: Settings, path: Path) -> None:
    an_open_batch(settings_env, path)
    job = build_defs(tasks=[load_task(path)]).resolve_job_def(f"{TASK}_retrain")
    with DagsterInstance.ephemeral() as instance:
        selection = _selection([f"{TASK}/expert_labels"])
        result = job.execute_in_process(instance=instance, asset_selection=selection, raise_on_error=False)
    assert not result.success
    [failed] = [e for e in result.all_events if e.is_step_failure]
    assert "there is no label yet" in str(failed.step_failure_data.error)


def _logged_home(lake: Lake) -> str:
    rows = lake.table(f"{TASK}/interactions").to_pyarrow_table(columns=["interaction_id"]).to_pylist()
    return min(row["interaction_id"] for row in rows)
