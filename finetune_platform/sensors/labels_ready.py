"""`labels_ready`: a batch that people have finished and agree on starts one retraining, within cooldown and budget.

That a batch has had its retraining stands in the database before its first run is asked for, so neither a lost
cursor nor a second daemon starts another.
"""

import time
from datetime import UTC, datetime

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

from finetune_platform.announcements import Event, announce, gateway_page
from finetune_platform.database import Database
from finetune_platform.labeling.batches import newest_batch, read_batch
from finetune_platform.labeling.figures import figures_of
from finetune_platform.labeling.readiness import readiness_of
from finetune_platform.labeling.retraining import (
    begin_retraining,
    end_retraining,
    permit,
    retrainings_of,
)
from finetune_platform.lake import Lake
from finetune_platform.loop.money import spent_of
from finetune_platform.sensors.attempts import attempt
from finetune_platform.sensors.chain import STAGES, TASK_TAG
from finetune_platform.sensors.claims import claim
from finetune_platform.sensors.drift_alarm import CAUSE_TAG
from finetune_platform.task import Task
from finetune_platform.task_notifications import Kind

RETRAIN_STAGES = ("expert_labels", *STAGES)


def retrain_job(task: Task) -> UnresolvedAssetJobDefinition:
    """`{task}_retrain`: labels to registered adapter, and the start of its rollout."""
    return define_asset_job(
        name=f"{task.name}_retrain",
        selection=AssetSelection.keys(*([task.name, stage] for stage in RETRAIN_STAGES)),
        description=f"Collects labels, then curates, trains, evaluates and registers {task.name}.",
        tags={TASK_TAG: task.name},
        executor_def=in_process_executor,
    )


def labels_ready_sensor(task: Task, job: UnresolvedAssetJobDefinition, interval_s: int = 30) -> SensorDefinition:
    """`{task}_labels_ready` for one task."""

    @sensor(
        name=f"{task.name}_labels_ready",
        job=job,
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Retrains {task.name} when experts have finished a batch and agree enough.",
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
        task: Whose batches.
        lake: Knows what past trainings cost.
        database: Holds the batches, and which of them have had a retraining.
        instance: Whose runs tell what has been tried.
        cursor: The batch that was settled last.
        now: Unix time in seconds.
    """
    batch_id = newest_batch(database, task.name)
    if batch_id is None or batch_id == cursor:
        return _wait(cursor, "no new batch" if batch_id else "no batch yet")
    past = retrainings_of(database, task.name)
    known = next((one for one in past if one.batch_id == batch_id), None)
    if known is not None and known.state != "started":
        return _wait(batch_id, f"{batch_id}: {known.state}, {known.note}")
    if known is None and (reason := _not_yet(task, lake, database, batch_id, now)):
        return _wait(cursor, f"{batch_id}: {reason}")
    begin_retraining(database, task.name, batch_id)
    tags = {CAUSE_TAG: batch_id, TASK_TAG: task.name}
    outcome = attempt(instance, tags, f"{task.name}-{batch_id}", now, run_config(task, f"labels of {batch_id}"))
    if outcome.request is not None:
        if not claim(database, str(outcome.request.run_key), now):
            return _wait(cursor, f"{batch_id}: its run was just asked for")
        return SensorResult(run_requests=[outcome.request], cursor=cursor)
    if outcome.settled or outcome.ended:
        end_retraining(database, batch_id, "done" if outcome.settled else "failed", outcome.reason)
        return _wait(batch_id, f"{batch_id}: {outcome.reason}")
    return _wait(cursor, f"{batch_id}: {outcome.reason}")


def run_config(task: Task, cause: str, accept_agreement: bool = False) -> dict[str, object]:
    """What a retraining's run is told."""
    told = {"cause": cause, "accept_agreement": accept_agreement}
    return {"ops": {f"{task.name}__expert_labels": {"config": told}}}


def _not_yet(task: Task, lake: Lake, database: Database, batch_id: str, now: float) -> str:
    """Why a batch starts nothing now; empty where it may."""
    batch = read_batch(database, batch_id)
    ready = readiness_of(batch, figures_of(batch, task.cost.label), task.labeling.min_agreement)
    if ready.state == "low_agreement":
        mend = (
            "mend the guidelines and have people look at their answers again, or `finetune retrain --accept-agreement`"
        )
        _announce(database, task, "low_agreement", batch_id, ready.reason, mend)
    if ready.state != "ready":
        return ready.reason
    if not task.retraining.automatic:
        return f"ready; `finetune retrain {task.name}` starts it"
    moment = datetime.fromtimestamp(now, UTC)
    started = [one.started_at for one in retrainings_of(database, task.name)]
    found = permit(task.retraining, started, spent_of(task, lake, database, moment).total, moment)
    if found.state == "over_budget":
        mend = f"raise it in the task file's `retraining:`, or `finetune retrain {task.name}`"
        _announce(database, task, "budget_reached", batch_id, f"labels wait, but {found.reason}", mend)
    return found.reason


def _announce(database: Database, task: Task, kind: Kind, batch_id: str, what: str, next_step: str) -> None:
    link = gateway_page("review/")
    announce(database, Event(kind=kind, task=task.name, subject=batch_id, what=what, link=link, next_step=next_step))


def _wait(cursor: str | None, reason: str) -> SensorResult:
    return SensorResult(skip_reason=SkipReason(reason), cursor=cursor)
