"""`drift_rows`: a look at the traffic as soon as enough of it has been logged, besides those of the schedule."""

import time

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from finetune_platform.database import Database
from finetune_platform.drift.state import Champion, known_of
from finetune_platform.lake import Lake
from finetune_platform.sensors.attempts import attempt
from finetune_platform.sensors.chain import TASK_TAG
from finetune_platform.sensors.claims import claim
from finetune_platform.serving.answered_sample import answered_since
from finetune_platform.serving.routes import champion_since
from finetune_platform.task import Task

LOOK_TAG = "finetune/look"


def drift_rows_sensor(task: Task, job: UnresolvedAssetJobDefinition, interval_s: int = 30) -> SensorDefinition | None:
    """`{task}_drift_rows` for a task that names `drift.rows_a_look`, else None."""
    if task.drift.rows_a_look is None:
        return None

    @sensor(
        name=f"{task.name}_drift_rows",
        job=job,
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Looks whether traffic has drifted when {task.drift.rows_a_look:,} rows have come.",
        required_resource_keys={"lake", "database"},
    )
    def evaluate(context: SensorEvaluationContext) -> SensorResult:
        resources = context.resources
        return step(task, resources.lake, resources.database, context.instance, time.time())

    return evaluate


def step(task: Task, lake: Lake, database: Database, instance: DagsterInstance, now: float) -> SensorResult:
    """One look at how much has come.

    Args:
        task: Names `drift.rows_a_look`.
        lake: Holds the log.
        database: Says up to when rows have been looked at.
        instance: Whose runs tell what has been tried.
        now: Unix time in seconds.
    """
    assert task.drift.rows_a_look is not None
    champion = Champion(*champion_since(database, task.name))
    known = known_of(database, task.name, champion)
    wanted = task.drift.rows_a_look if known.reference_id else max(task.drift.rows_a_look, task.drift.reference_rows)
    came = answered_since(lake, task, champion.name, known.seen_until)
    if came < wanted:
        return SensorResult(skip_reason=SkipReason(f"{came:,} of {wanted:,} rows since {known.seen_until:%H:%M} UTC"))
    seen = f"{champion.name} {known.seen_until.isoformat()} {came // wanted}"
    outcome = attempt(instance, {LOOK_TAG: seen, TASK_TAG: task.name}, f"{task.name}-look-{seen}", now)
    if outcome.request is None or not claim(database, str(outcome.request.run_key), now):
        return SensorResult(skip_reason=SkipReason(outcome.reason or "its run was just asked for"))
    return SensorResult(run_requests=[outcome.request])
