"""The run_failure sensor over real failed runs: one announcement a run, none for gates, never a run of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, SensorDefinition, build_sensor_context

from finetune_platform.announcements import Notification
from finetune_platform.database import Database
from finetune_platform.definitions import build_defs
from finetune_platform.notifications.outbox import newest
from finetune_platform.resources.storage import DatabaseResource
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


class Daemon:
    """Ticks the sensor as Dagster's daemon does: keeps the cursor."""

    def __init__(self, path: Path, place: Settings, instance: DagsterInstance) -> None:
        self.defs, self.place, self.instance = build_defs([load_task(path)]), place, instance
        self.repository = self.defs.get_repository_def()
        self.sensor: SensorDefinition = self.repository.get_sensor_def("run_failure")
        self.cursor: str | None = None

    def tick(self) -> None:
        with build_sensor_context(
            self.instance,
            self.cursor,
            repository_def=self.repository,
            resources={"database": DatabaseResource()},
        ) as context:
            result = self.sensor.evaluate_tick(context)
            self.cursor = result.cursor
            assert not result.run_requests, "a failure must start nothing"

    def run(self, job: str) -> ExecuteInProcessResult:
        return self.defs.resolve_job_def(job).execute_in_process(instance=self.instance, raise_on_error=False)

    def announced(self) -> list[Notification]:
        database = Database(self.place.database_url)
        try:
            return newest(database, None, 99)
        finally:
            database.close()


def test_a_failed_run_is_announced_once_with_its_mend(
    settings_env: Settings, task_file: Any, instance: DagsterInstance
) -> None:
    path = task_file()
    (path.parent / "data" / "tickets.jsonl").write_text('{"promt": "a"}\n' * 30)
    daemon = Daemon(path, settings_env, instance)
    daemon.tick()
    failed = daemon.run("ticket_topics_chain")
    assert not failed.success
    for _ in range(3):
        daemon.tick()
    [told] = daemon.announced()
    assert (told.kind, told.task, told.key) == (
        "run_failed",
        "ticket_topics",
        f"run_failed:ticket_topics:{failed.run_id}",
    )
    assert told.what.startswith("ticket_topics_chain failed: ") and "tickets.jsonl" in told.what
    assert told.link == f"dagster:runs/{failed.run_id}"
    assert told.next_step and "mend:" not in told.next_step
    # A lost cursor tells nothing again, another failure is another event.
    daemon.cursor = None
    daemon.tick()
    daemon.run("ticket_topics_chain")
    daemon.tick()
    daemon.tick()
    assert len(daemon.announced()) == 2


def test_an_input_that_was_never_made_is_told_as_the_library_told_it(
    settings_env: Settings, task_file: Any, instance: DagsterInstance
) -> None:
    daemon = Daemon(task_file(), settings_env, instance)
    daemon.tick()
    daemon.run("ticket_topics_rollout")
    daemon.tick()
    [told] = daemon.announced()
    assert told.what.startswith("ticket_topics_rollout failed: ticket_topics/registered_adapter: it has never been")
    assert told.next_step.startswith("materialize it first") and "mend:" not in told.what


def test_a_run_that_succeeds_is_no_news(settings_env: Settings, task_file: Any, instance: DagsterInstance) -> None:
    daemon = Daemon(task_file(), settings_env, instance)
    daemon.tick()
    assert daemon.run("ticket_topics_interactions_observation").success
    daemon.tick()
    assert daemon.announced() == []
