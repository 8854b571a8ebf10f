"""What a task's cycle has cost in thirty days, at the prices of its task file, and what the adapter returns."""

from datetime import UTC, datetime

from finetune_platform.database import Database
from finetune_platform.labeling.retraining import MONTH, answers_since
from finetune_platform.lake import Lake
from finetune_platform.manifests import EvaluationManifest, Record
from finetune_platform.registry.artifacts import read_manifest
from finetune_platform.registry.register import NEW_ARM
from finetune_platform.registry.spending import training_hours
from finetune_platform.task import Task

BASELINE = "prompted"


class Spent(Record):
    """Of thirty days. `total` is in `currency`; simulated experts cost nothing."""

    training_hours: float
    answers: int
    total: float
    currency: str


class Return(Record):
    """The newest adapter beside the untuned model with the long prompt, by the task's primary metric."""

    metric: str
    adapter: float
    baseline: float


def spent_of(task: Task, lake: Lake, database: Database, now: datetime | None = None) -> Spent:
    """What training and labels have cost."""
    since = (now or datetime.now(UTC)) - MONTH
    hours, answers = training_hours(task.name, lake, database, since), answers_since(database, task.name, since)
    total = hours * task.cost.training_hour + answers * task.cost.label
    return Spent(training_hours=round(hours, 3), answers=answers, total=round(total, 2), currency=task.cost.currency)


def return_of(task: Task, lake: Lake, database: Database) -> Return | None:
    """What the last evaluation says of the adapter and of prompting; None before there is one."""
    made = database.latest_artifact(task.name, "evaluation_report")
    if made is None:
        return None
    report = read_manifest(lake, "evaluation_report", task.name, made.artifact_id)
    assert isinstance(report, EvaluationManifest)
    metric = task.evaluation.primary_metric
    values = [report.summary.get(arm, {}).get(metric) for arm in (NEW_ARM, BASELINE)]
    if values[0] is None or values[1] is None:
        return None
    return Return(metric=metric, adapter=values[0]["value"], baseline=values[1]["value"])
