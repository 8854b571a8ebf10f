"""Where a cycle stands: each station as the last event left it."""

import json
from pathlib import Path
from typing import Any

import pytest
from past_events import an_alarm
from review_batches import item
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.database import Database
from finetune_platform.labeling.answering import Annotation, annotate
from finetune_platform.labeling.batches import ToReview, close_batch, open_batch
from finetune_platform.labeling.retraining import begin_retraining, end_retraining
from finetune_platform.lake import Lake
from finetune_platform.loop.money import spent_of
from finetune_platform.loop.stations import here, stations_of
from finetune_platform.serving.routes import change
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task


@pytest.fixture
def task(settings_env: Settings, task_file: Any) -> Task:
    return load_task(task_file(cost={"label": 0.5, "currency": "EUR"}))


def states(task: Task, place: Settings) -> dict[str, str]:
    found = stations_of(task, Lake(place.lake_url), Database(place.database_url))
    return {station.name: station.state for station in found} | {"here": here(found).name}


def test_a_cycle_from_its_alarm_to_its_retraining(settings_env: Settings, task: Task, tmp_path: Path) -> None:
    lake, database = Lake(settings_env.lake_url), Database(settings_env.database_url)
    assert set(states(task, settings_env).values()) == {"idle", "champion"}
    report = an_alarm(lake, database, task.name)
    assert states(task, settings_env)["here"] == "drift"
    open_batch(database, task.name, "rb-1", report.alarm, "drift", [ToReview("in-1", item())])
    now = states(task, settings_env)
    assert (now["drift"], now["experts"], now["here"]) == ("alarm", "waiting", "experts")
    told = CliRunner().invoke(app, ["loop", task.name])
    assert "the cycle is at experts: waiting, waits for people: 1 rows" in told.output, told.output
    annotate(database, "rb-1", 1, "ann", Annotation("answer", "greeting"))
    now = states(task, settings_env)
    assert (now["experts"], now["retraining"], now["here"]) == ("done", "waiting", "retraining")
    begin_retraining(database, task.name, "rb-1")
    close_batch(database, "rb-1")
    assert states(task, settings_env)["retraining"] == "running"
    end_retraining(database, "rb-1", "failed", "the gates said no")
    assert states(task, settings_env)["retraining"] == "failed"
    assert (spent_of(task, lake, database).total, spent_of(task, lake, database).answers) == (0.5, 1)
    change(
        database, task.name, lambda plan: plan.model_copy(update={"champion": "ad-2"}),
        actor="test", action="promote", reason="it is better",
    )  # fmt: skip
    drift = next(station for station in stations_of(task, lake, database) if station.name == "drift")
    assert (drift.state, drift.waits_for) == ("idle", "traffic of ad-2"), "an alarm ends with the champion it is about"
    document = json.loads(CliRunner().invoke(app, ["loop", task.name, "--json"]).output)
    assert document["here"] == "retraining" and document["spent"]["currency"] == "EUR"
