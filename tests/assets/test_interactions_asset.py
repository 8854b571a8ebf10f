"""The interactions log in Dagster: what an observation shows, when it warns, and what maintenance does."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import TaskFile
from dagster import AssetKey, DagsterInstance, Definitions, ExecuteInProcessResult

from finetune_platform.assets.interactions import (
    interactions_asset,
    interactions_maintenance,
    interactions_observation,
    interactions_schedules,
)
from finetune_platform.lake import Lake
from finetune_platform.serving.interactions import DAY, FeedbackEvent, Interaction
from finetune_platform.serving.stored_rows import stored, tables_of
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

KEY = AssetKey(["ticket_topics", "interactions"])


@pytest.fixture
def task(task_file: TaskFile) -> Task:
    return load_task(task_file(serving={"retention_days": 30}))


def definitions(task: Task, lake: Lake) -> Definitions:
    observation, maintenance = interactions_observation(task), interactions_maintenance(task)
    return Definitions(
        assets=[interactions_asset(task)],
        jobs=[observation, maintenance],
        schedules=interactions_schedules(task, observation, maintenance),
        resources={"lake": lake},
    )


def execute(task: Task, lake: Lake, job: str, instance: DagsterInstance, **how: Any) -> ExecuteInProcessResult:
    found = definitions(task, lake).resolve_job_def(f"ticket_topics_interactions_{job}")
    return found.execute_in_process(instance=instance, **how)


def log(lake: Lake, *days: float) -> None:
    """Logs an interaction and a word on it, `days` ago each, in commits of their own."""
    for n, age in enumerate(days):
        common: dict[str, Any] = {
            "interaction_id": f"in-{n}",
            "timestamp": datetime.now(UTC) - timedelta(days=age),
            "task": "ticket_topics",
            "adapter_id": "ad-1",
            "arm": "champion",
        }
        row = Interaction(request={}, response={}, latency_ms=3.0, sampled_because="share", **common)
        for path, table in tables_of(stored(r, redact=True) for r in (row, FeedbackEvent(**common))).items():
            lake.append(path, table, partition_by=DAY)


def observed(instance: DagsterInstance) -> dict[str, Any]:
    (record,) = instance.fetch_observations(KEY, limit=1).records
    assert record.asset_observation is not None
    return {name: value.value for name, value in record.asset_observation.metadata.items()}


def test_it_is_an_external_asset_that_is_observed_and_never_materialized(task: Task, local_lake: Lake) -> None:
    graph = definitions(task, local_lake).resolve_asset_graph()
    node = graph.get(KEY)
    assert (node.is_external, node.is_observable, node.is_materializable) == (True, True, False)
    assert (node.group_name, node.kinds, list(node.owners)) == ("monitor", {"deltalake"}, ["team:ml-platform"])
    assert KEY not in graph.materializable_asset_keys


def test_an_observation_shows_rows_size_and_span_and_that_it_is_fresh(task: Task, lake: Lake) -> None:
    log(lake, 3, 2, 0.01)
    with DagsterInstance.ephemeral() as instance:
        result = execute(task, lake, "observation", instance)
        (check,) = result.get_asset_check_evaluations()
        shown = observed(instance)
    assert (check.check_name, check.passed) == ("fresh", True)
    assert check.description == "The newest row is 14 min old."
    assert (shown["dagster/row_count"], shown["feedback rows"], shown["files"]) == (3, 3, 3)
    assert shown["size (bytes)"] > 1000
    newest = datetime.fromtimestamp(shown["dagster/last_updated_timestamp"], UTC)
    assert timedelta(minutes=14) < datetime.now(UTC) - newest < timedelta(minutes=16)


def test_a_log_without_new_rows_warns(task: Task, local_lake: Lake) -> None:
    log(local_lake, 3)
    with DagsterInstance.ephemeral() as instance:
        result = execute(task, local_lake, "observation", instance)
        (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity.value, check.description) == (False, "WARN", "The newest row is 3 days old.")
    assert result.success


def test_before_the_first_row_there_is_nothing_to_warn_of(task: Task, local_lake: Lake) -> None:
    with DagsterInstance.ephemeral() as instance:
        result = execute(task, local_lake, "observation", instance)
        (check,) = result.get_asset_check_evaluations()
        assert (check.passed, observed(instance)["dagster/row_count"]) == (True, 0)
        assert execute(task, local_lake, "maintenance", instance).success
    assert local_lake.list() == []


def test_maintenance_deletes_what_the_task_says_and_tells_what_it_did(task: Task, local_lake: Lake) -> None:
    log(local_lake, 40, 35, 5, 5, 5, 0.01)
    with DagsterInstance.ephemeral() as instance:
        assert execute(task, local_lake, "maintenance", instance).success
        shown = observed(instance)
    assert (shown["dagster/row_count"], shown["feedback rows"]) == (4, 4)
    assert (shown["rows deleted"], shown["feedback rows deleted"]) == (2, 2)
    assert (shown["files before"], shown["files after"]) == (6, 2)
    rows = local_lake.table("ticket_topics/interactions").to_pyarrow_table()["interaction_id"].to_pylist()
    assert sorted(rows) == ["in-2", "in-3", "in-4", "in-5"]


def test_a_lake_that_is_away_fails_the_run_with_its_mend(
    task: Task, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with DagsterInstance.ephemeral() as instance:
        result = execute(task, Lake(s3_url), "observation", instance, raise_on_error=False)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert "mend: check that it runs" in str(failed.step_failure_data.user_failure_data.description)


def test_observation_and_maintenance_run_by_themselves(task: Task, local_lake: Lake) -> None:
    schedules = definitions(task, local_lake).get_repository_def().schedule_defs
    found = {schedule.job_name: (schedule.cron_schedule, schedule.default_status.value) for schedule in schedules}
    assert found == {
        "ticket_topics_interactions_observation": ("5 * * * *", "RUNNING"),
        "ticket_topics_interactions_maintenance": ("35 1 * * *", "RUNNING"),
    }
