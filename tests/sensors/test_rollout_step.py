"""The rollout_step sensor on real instance state: the traffic decides, and every change is shown by one run."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, SensorResult, build_sensor_context

from finetune_platform.database import Database
from finetune_platform.sensors.rollout_step import step
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.tables import TrafficCount
from finetune_platform.serving.traffic import Counts, bucket_of
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

ADAPTER = "ad-0123456789ab"
NOW = 1_800_000_000.0


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def task(task_file: Any) -> Task:
    return load_task(task_file())


@pytest.fixture
def local_database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'finetune.db'}")
    yield opened
    opened.close()


class Daemon:
    """Ticks the sensor as Dagster's daemon does: keeps the cursor."""

    def __init__(self, task: Task, database: Database, instance: DagsterInstance) -> None:
        self.task, self.database, self.instance = task, database, instance
        self.cursor: str | None = None

    def tick(self) -> SensorResult:
        context = build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = step(self.task, self.database, context, NOW)
        self.cursor = result.cursor
        return result


def _end_run(instance: DagsterInstance, task: Task, tags: dict[str, str], status: DagsterRunStatus) -> None:
    instance.create_run(
        job_name=f"{task.name}_rollout",
        run_id=None,
        run_config=None,
        status=status,
        tags=tags,
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        execution_plan_snapshot=None,
        job_snapshot=None,
        parent_job_snapshot=None,
        asset_selection=None,
        asset_check_selection=None,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=None,
        job_code_origin=None,
        asset_graph=None,
    )


def _traffic(database: Database, task: Task, adapter: str, arm: str, counts: Counts, at: datetime) -> None:
    with database.session() as session:
        session.add(
            TrafficCount(
                gateway="g", task=task.name, adapter_id=adapter, arm=arm, bucket=bucket_of(at), counts=vars(counts)
            )
        )


def test_without_a_rollout_nothing_starts(task: Task, local_database: Database, instance: DagsterInstance) -> None:
    assert Daemon(task, local_database, instance).tick().run_requests in (None, [])


def test_a_started_rollout_is_shown_by_one_run(task: Task, local_database: Database, instance: DagsterInstance) -> None:
    rollouts.ensure_started(local_database, task, ADAPTER, actor="test", reason="registered")
    daemon = Daemon(task, local_database, instance)
    [request] = daemon.tick().run_requests or []
    _end_run(instance, task, dict(request.tags), DagsterRunStatus.STARTED)
    assert not daemon.tick().run_requests
    # A lost cursor repeats nothing either.
    daemon.cursor = None
    assert not daemon.tick().run_requests


def test_a_settled_state_is_not_looked_up_again(
    task: Task, local_database: Database, instance: DagsterInstance
) -> None:
    rollouts.ensure_started(local_database, task, ADAPTER, actor="test", reason="registered")
    daemon = Daemon(task, local_database, instance)
    [request] = daemon.tick().run_requests or []
    _end_run(instance, task, dict(request.tags), DagsterRunStatus.SUCCESS)
    daemon.tick()
    assert daemon.cursor is not None and daemon.cursor.endswith("running 5%")


def test_a_harmful_canary_is_rolled_back_by_the_tick_itself(
    task: Task, local_database: Database, instance: DagsterInstance
) -> None:
    started = datetime.now(UTC) - timedelta(minutes=10)
    rollouts.ensure_started(local_database, task, ADAPTER, actor="test", reason="registered", now=started)
    after = started + timedelta(minutes=1)
    _traffic(local_database, task, ADAPTER, "canary", Counts(n=200, good=60, errors=140), after)
    _traffic(local_database, task, "base", "base", Counts(n=3800, good=3800), after)
    daemon = Daemon(task, local_database, instance)
    [request] = daemon.tick().run_requests or []
    assert "rolled_back" in str(request.run_key)
    with local_database.reading() as session:
        plan = routes.current(session, task.name).plan
    assert plan.canary is None and plan.withdrawn == [ADAPTER]
