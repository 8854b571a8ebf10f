"""`label_studio`: sends a task's open batches to Label Studio and fetches what people said there, every so often.

Every tick does it itself, without a run: there would be one a minute. What a tick has no time for, the next does.
"""

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from finetune_platform.database import Database
from finetune_platform.labeling.label_studio.sync import sync
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_labeling import LabelStudio

TICK_S = 20.0
"""For one tick, which Dagster ends after sixty; a last request may take thirty more."""


def label_studio_sensor(task: Task, place: LabelStudio, home: Settings) -> SensorDefinition:
    """`{task}_label_studio` for one task.

    Args:
        task: Whose experts label there.
        place: The server, as the task's labeling section names it.
        home: The installation. Not a resource: the UI shows what resources are made of, and it holds the token.
    """

    @sensor(
        name=f"{task.name}_label_studio",
        minimum_interval_seconds=max(5, round(place.poll_seconds)),
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Sends the review batches of {task.name} to {place.url} and fetches what experts said.",
        required_resource_keys={"database"},
    )
    def evaluate(context: SensorEvaluationContext) -> SkipReason:
        return SkipReason(round_of(task, context.resources.database, home, context))

    return evaluate


def round_of(task: Task, database: Database, home: Settings, context: SensorEvaluationContext) -> str:
    """One round, and what it came to in words; it starts no run."""
    said = []
    for done in sync(database, task.name, task.labeling, home.label_studio_token, seconds=TICK_S):
        for refused in done.pulled.refused:
            context.log.warning(refused)
        said.append(done.words)
    return "; ".join(said) or f"{task.name} has no open batch"
