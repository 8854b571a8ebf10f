"""`rollout_step`: lets the traffic decide about a rollout under way, and shows every change of it as a run.

The gateway looks at the same traffic by the same rules, so rollbacks need no Dagster; whoever looks first decides,
once.
"""

import time

from dagster import (
    AssetSelection,
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
from finetune_platform.sensors.attempts import attempt
from finetune_platform.sensors.chain import TASK_TAG
from finetune_platform.serving import rollouts
from finetune_platform.task import Task

ROLLOUT_TAG = "finetune/rollout"


def rollout_job(task: Task) -> UnresolvedAssetJobDefinition:
    """`{task}_rollout`: looks at the rollout and shows where it stands."""
    return define_asset_job(
        name=f"{task.name}_rollout",
        selection=AssetSelection.keys([task.name, "rollout"]),
        description=f"Shows where the rollout of {task.name} stands and lets MLflow's champion follow.",
        tags={TASK_TAG: task.name},
        executor_def=in_process_executor,
    )


def rollout_step_sensor(task: Task, job: UnresolvedAssetJobDefinition, interval_s: int = 30) -> SensorDefinition:
    """`{task}_rollout_step` for one task."""

    @sensor(
        name=f"{task.name}_rollout_step",
        job=job,
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Steps, promotes, holds or rolls back the canary of {task.name} on what its traffic shows.",
        required_resource_keys={"database"},
    )
    def evaluate(context: SensorEvaluationContext) -> SensorResult:
        return step(task, context.resources.database, context, time.time())

    return evaluate


def step(task: Task, database: Database, context: SensorEvaluationContext, now: float) -> SensorResult:
    """One look: the traffic decides, then a run shows what has changed since the last run.

    Args:
        task: Whose rollout.
        database: Where it is stored.
        context: Whose instance has the runs, and whose cursor names the state that was shown last.
        now: Unix time in seconds, for the attempts of runs.
    """
    rollouts.tick(database, task)
    with database.reading() as session:
        row = rollouts.latest(session, task.name)
        state = None if row is None else f"{row.rollout_id} {row.state} {rollouts.memory_of(row).progress.place}"
    if state is None:
        return SensorResult(skip_reason=SkipReason(f"{task.name} has no rollout"))
    if state == context.cursor:
        return SensorResult(skip_reason=SkipReason(f"{state}: nothing has changed"), cursor=state)
    tags = {ROLLOUT_TAG: state, TASK_TAG: task.name}
    outcome = attempt(context.instance, tags, f"{task.name}-{state.replace(' ', '-')}", now)
    if outcome.request is not None:
        return SensorResult(run_requests=[outcome.request], cursor=context.cursor)
    return SensorResult(
        skip_reason=SkipReason(f"{state}: {outcome.reason}"), cursor=state if outcome.settled else context.cursor
    )
