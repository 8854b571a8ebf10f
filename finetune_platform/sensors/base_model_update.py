"""`base_model_update`: a newer revision of a task's base model starts one proposal.

Like `new_data` a state machine over the runs that carry the revision's mark as a tag; the cursor only saves it work.
"""

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
from finetune_platform.errors import FinetuneError
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.sensors.attempts import attempt
from finetune_platform.sensors.chain import TASK_TAG
from finetune_platform.sensors.new_data import Cursor
from finetune_platform.task import Task

MARK_TAG = "finetune/base_model"


def base_model_sensor(task: Task, job: UnresolvedAssetJobDefinition, interval_s: int = 1800) -> SensorDefinition:
    """`{task}_base_model_update` for one task."""

    @sensor(
        name=f"{task.name}_base_model_update",
        job=job,
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Measures a newer revision of {task.name}'s base model once, and proposes what to do.",
        required_resource_keys={"lake", "database"},
    )
    def evaluate(context: SensorEvaluationContext) -> SensorResult:
        resources = context.resources
        cursor = Cursor.read(context.cursor)
        return tick(task, resources.lake, resources.database, context.instance, cursor, time.time())

    return evaluate


def tick(
    task: Task, lake: Lake, database: Database, instance: DagsterInstance, cursor: Cursor, now: float
) -> SensorResult:
    """One step of the state machine.

    Args:
        task: Whose base model.
        lake: Where adapters are, and perhaps the model.
        database: Says who is champion.
        instance: Whose runs tell what has been done for a mark.
        cursor: Of the last tick.
        now: Unix time in seconds.
    """
    from finetune_platform.inference.base_model_news import is_news, newest

    champion_id = database.current(task.name, "champion")
    if champion_id is None:
        return _wait(cursor, f"{task.name} has no champion to compare with")
    try:
        found = newest(task.base_model, task.folder, lake)
    except FinetuneError as error:
        # A hub that is away is no failure of this location; the next look is soon enough.
        return _wait(cursor, error.problem)
    if found.mark == cursor.settled:
        return _wait(cursor, f"{found.mark} is settled")
    champion = lake.manifest(AdapterManifest, AdapterManifest.path_of(task.name, champion_id))
    if not is_news(found, task.base_model, champion.base_model_revision):
        return _wait(cursor._replace(settled=found.mark), f"the champion stands on {found.mark}")
    if found.mark != cursor.seen:
        # Files still being copied change between two ticks.
        return _wait(cursor._replace(seen=found.mark), f"{found.mark} is new; it must be the same at the next tick")
    tags = {MARK_TAG: found.mark, TASK_TAG: task.name}
    outcome = attempt(instance, tags, f"{task.name}-{found.mark}", now)
    if outcome.request is not None:
        return SensorResult(run_requests=[outcome.request], cursor=cursor.write())
    return _wait(cursor._replace(settled=found.mark) if outcome.settled else cursor, f"{found.mark}: {outcome.reason}")


def _wait(cursor: Cursor, reason: str) -> SensorResult:
    return SensorResult(skip_reason=SkipReason(reason), cursor=cursor.write())
