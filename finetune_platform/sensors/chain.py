"""The job that runs a task's whole chain, and the schedule of its task file."""

from dagster import (
    AssetSelection,
    DefaultScheduleStatus,
    ScheduleDefinition,
    define_asset_job,
    in_process_executor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from finetune_platform.task import Task

TASK_TAG = "finetune/task"

STAGES = (
    "raw_examples",
    "curated_dataset",
    "trained_adapter",
    "evaluation_report",
    "registered_adapter",
    "rollout",
)
"""What the chain materializes, in the order of the flow."""


def chain_job(task: Task) -> UnresolvedAssetJobDefinition:
    """`{task}_chain`: raw rows to registered adapter, and the start of its rollout.

    The stages follow one another and the heavy one has its own process, so a process for each step would only
    cost start-ups.
    """
    return define_asset_job(
        name=f"{task.name}_chain",
        selection=AssetSelection.keys(*([task.name, stage] for stage in STAGES)),
        description=f"Curates, trains, evaluates and registers {task.name}, and starts the rollout.",
        tags={TASK_TAG: task.name},
        executor_def=in_process_executor,
    )


def chain_schedule(task: Task, job: UnresolvedAssetJobDefinition) -> ScheduleDefinition | None:
    """`{task}_schedule` by the task file's cron, or None where it names none."""
    if task.schedule is None:
        return None
    return ScheduleDefinition(
        name=f"{task.name}_schedule",
        job=job,
        cron_schedule=task.schedule.cron,
        execution_timezone=task.schedule.timezone,
        default_status=DefaultScheduleStatus.RUNNING if task.schedule.enabled else DefaultScheduleStatus.STOPPED,
        description=f"The whole chain of {task.name}; what has not changed is found in place.",
    )
