"""`drift_alarm`: a drift report that carries an alarm starts one batch of rows for experts.

That an alarm has had its batch stands in the database, so neither a lost cursor nor a lost run history starts another.
"""

import time

from dagster import (
    AssetSelection,
    DagsterInstance,
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    in_process_executor,
    sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from finetune_platform.database import Database
from finetune_platform.labeling.batches import batch_of_cause
from finetune_platform.lake import Lake
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.sensors.attempts import attempt
from finetune_platform.sensors.chain import TASK_TAG
from finetune_platform.sensors.claims import claim
from finetune_platform.task import Task

CAUSE_TAG = "finetune/cause"
ASSET = "review_batch"


def review_job(task: Task) -> UnresolvedAssetJobDefinition:
    """`{task}_review`: chooses rows for experts and opens the batch."""
    return define_asset_job(
        name=f"{task.name}_review",
        selection=AssetSelection.keys([task.name, ASSET]),
        description=f"Chooses rows of {task.name}'s traffic for experts.",
        tags={TASK_TAG: task.name},
        executor_def=in_process_executor,
    )


def drift_alarm_sensor(task: Task, job: UnresolvedAssetJobDefinition, interval_s: int = 30) -> SensorDefinition:
    """`{task}_drift_alarm` for one task."""

    @sensor(
        name=f"{task.name}_drift_alarm",
        job=job,
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Opens a batch for experts when a drift report of {task.name} carries an alarm, once an alarm.",
        required_resource_keys={"lake", "database"},
    )
    def evaluate(context: SensorEvaluationContext) -> SensorResult:
        resources = context.resources
        return step(task, resources.lake, resources.database, context.instance, context.cursor, time.time())

    return evaluate


def step(
    task: Task, lake: Lake, database: Database, instance: DagsterInstance, cursor: str | None, now: float
) -> SensorResult:
    """One look.

    Args:
        task: Whose reports.
        lake: Holds the reports.
        database: Says which report is the newest, and which alarms have had their batch.
        instance: Whose runs tell what has been tried.
        cursor: The alarm that was settled last.
        now: Unix time in seconds.
    """
    latest = database.latest_artifact(task.name, "drift_report")
    if latest is None:
        return _wait(cursor, "nobody has looked at the traffic yet")
    report = lake.manifest(DriftManifest, DriftManifest.path_of(task.name, latest.artifact_id))
    if report.status != "alarm":
        return _wait(cursor, report.headline)
    cause = report.alarm
    if cursor == cause or batch_of_cause(database, task.name, cause) is not None:
        return _wait(cause, f"{cause} has its batch")
    tags = {CAUSE_TAG: cause, TASK_TAG: task.name}
    config = {"ops": {f"{task.name}__{ASSET}": {"config": {"cause": cause}}}}
    outcome = attempt(instance, tags, f"{task.name}-{cause}", now, config)
    if outcome.request is None:
        return _wait(cause if outcome.settled else cursor, f"{cause}: {outcome.reason}")
    if not claim(database, str(outcome.request.run_key), now):
        return _wait(cursor, f"{cause}: its run was just asked for")
    return SensorResult(run_requests=[outcome.request], cursor=cursor)


def _wait(cursor: str | None, reason: str) -> SensorResult:
    return SensorResult(skip_reason=SkipReason(reason), cursor=cursor)
