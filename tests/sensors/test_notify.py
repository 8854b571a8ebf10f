"""The notify sensor: what was announced is sent, by a sensor that starts no run."""

from collections.abc import Iterator
from typing import Any

import pytest
from dagster import DagsterInstance, build_sensor_context

from finetune_platform.announcements import Event, announce
from finetune_platform.database import Database
from finetune_platform.definitions import build_defs
from finetune_platform.resources.storage import DatabaseResource
from finetune_platform.settings import Settings, settings
from finetune_platform.task_file import load_task

EVENT = Event(kind="alarm", task="ticket_topics", subject="rf-1", what="Traffic changed", next_step="look")


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


def tick(task_path: Any, instance: DagsterInstance) -> str:
    settings.cache_clear()
    defs = build_defs([load_task(task_path)])
    sensor = defs.get_repository_def().get_sensor_def("notify")
    with build_sensor_context(instance, resources={"database": DatabaseResource()}) as context:
        told = sensor.evaluate_tick(context)
        assert not told.run_requests
        return str(told.skip_message)


def test_what_was_announced_is_sent_once_somebody_is_named(
    settings_env: Settings, task_file: Any, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    path = task_file()
    database = Database(settings_env.database_url)
    announce(database, EVENT)
    assert tick(path, instance) == "NOTIFY_URLS is not set; events that wait: 1"
    monkeypatch.setenv("NOTIFY_URLS", "ops=json://user:hunter2@127.0.0.1:9/x")
    said = tick(path, instance)
    assert said.startswith("0 messages sent; ops: ") and said.endswith("events that wait: 1")
    assert "hunter2" not in said
    database.close()
