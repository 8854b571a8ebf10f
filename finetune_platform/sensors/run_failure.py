"""`run_failure`: a failed run of this location is announced once, with its problem and mend. It never starts a run.

Runs in a terminal's own process are not announced: whoever started one reads its failure there. A gate that keeps an
adapter out is announced by `evaluation_report`, with its figures, and not again as a failed run.
"""

from collections.abc import Iterable, Sequence

from dagster import (
    DagsterInstance,
    DagsterRun,
    DefaultSensorStatus,
    ResourceParam,
    RunFailureSensorContext,
    SensorDefinition,
    run_failure_sensor,
)

from finetune_platform.announcements import Event, announce, dagster_page
from finetune_platform.database import Database
from finetune_platform.errors import GatesFailed
from finetune_platform.resources.failures import failed_step_of_run, failure_of_run
from finetune_platform.sensors.chain import TASK_TAG
from finetune_platform.task import Task

GATES_STEP = "evaluation_report"


def run_failures_sensor(tasks: Sequence[Task], interval_s: int = 30) -> SensorDefinition:
    """The sensor for all jobs of the location, of these tasks."""

    # Without `monitored_jobs` it is all jobs of this location and of no other; there is no job for it to request.
    @run_failure_sensor(
        name="run_failure",
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description="Announces every failed run of this location, once, with its problem and its mend.",
    )
    def evaluate(context: RunFailureSensorContext, database: ResourceParam[Database]) -> None:
        tell(context.instance, database, context.dagster_run, [task.name for task in tasks])

    return evaluate


def tell(instance: DagsterInstance, database: Database, run: DagsterRun, tasks: Iterable[str]) -> bool:
    """Announces a failed run; False where that was done before, or others announce it."""
    failure = failure_of_run(instance, run.run_id)
    if isinstance(failure, GatesFailed) and failed_step_of_run(instance, run.run_id) == GATES_STEP:
        return False
    return announce(
        database,
        Event(
            kind="run_failed",
            task=task_of(run, tasks),
            subject=run.run_id,
            what=f"{run.job_name} failed: {failure.problem}",
            link=dagster_page(f"runs/{run.run_id}"),
            next_step=failure.mend,
        ),
    )


def task_of(run: DagsterRun, tasks: Iterable[str]) -> str:
    """Whose run it is: by its tag, by its assets, or by its job's name, which begins with the task's."""
    if (tagged := run.tags.get(TASK_TAG)) is not None:
        return tagged
    if run.asset_selection:
        return next(iter(run.asset_selection)).path[0]
    return max((name for name in tasks if run.job_name.startswith(f"{name}_")), key=len, default="")
