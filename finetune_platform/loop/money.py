"""What a task's cycle has cost in thirty days, at the prices of its task file, and what the adapter returns."""

from datetime import UTC, datetime

from finetune_platform.database import Database
from finetune_platform.drift.measured import judge_calls
from finetune_platform.evaluation.evidence import ArmEvidence
from finetune_platform.evaluation.publication import read_evidence
from finetune_platform.labeling.retraining import MONTH, answers_since
from finetune_platform.lake import Lake
from finetune_platform.manifests import Record
from finetune_platform.registry.register import NEW_ARM
from finetune_platform.registry.spending import training_hours
from finetune_platform.task import Task

BASELINE, CHAMPION = "prompted", "champion"


class Spent(Record):
    """Of thirty days, money in `currency`. Simulated experts cost nothing.

    Attributes:
        training_hours: A GPU's, or whatever the task trains on.
        answers: Of experts.
        judge_calls: Answers of the judge.
        training: What the hours have cost; as `labels` and `judging`.
        monthly_budget: Of `retraining:`; None: there is none.
        left: Of it; negative where it is overdrawn.
    """

    training_hours: float
    answers: int
    judge_calls: int
    training: float
    labels: float
    judging: float
    total: float
    currency: str
    monthly_budget: float | None
    left: float | None


class Side(Record):
    """One arm of an evaluation, by the primary metric with its 95% interval, and by what a request takes.

    Attributes:
        cost_per_1000: Of requests; None where the task file has no prices of serving.
    """

    value: float | None
    lower: float | None
    upper: float | None
    cost_per_1000: float | None
    prompt_tokens: float
    completion_tokens: float


class Return(Record):
    """The newest evaluated adapter beside the untuned model with the long prompt, on the same rows.

    Attributes:
        champion: Who answered at that time; None: no adapter did, or this one.
    """

    evaluation_id: str
    metric: str
    rows: int
    adapter: Side
    baseline: Side
    champion: Side | None
    currency: str


def spent_of(task: Task, lake: Lake, database: Database, now: datetime | None = None) -> Spent:
    """What training, labels and the judge have cost."""
    since = (now or datetime.now(UTC)) - MONTH
    hours, answers = training_hours(task.name, lake, database, since), answers_since(database, task.name, since)
    calls = judge_calls(lake, task.name, since)
    training, labels = hours * task.cost.training_hour, answers * task.cost.label
    judging = calls * task.judge.price_per_call if task.judge else 0.0
    total, budget = round(training + labels + judging, 2), task.retraining.monthly_budget
    return Spent(
        training_hours=round(hours, 3),
        answers=answers,
        judge_calls=calls,
        training=round(training, 2),
        labels=round(labels, 2),
        judging=round(judging, 2),
        total=total,
        currency=task.cost.currency,
        monthly_budget=budget,
        left=None if budget is None else round(budget - total, 2),
    )


def return_of(task: Task, lake: Lake, database: Database) -> Return | None:
    """What the last evaluation says of the adapter and of prompting; None before there is one.

    Raises:
        BadInput: The lake does not hold its report, or that of another version.
    """
    made = database.latest_artifact(task.name, "evaluation_report")
    if made is None:
        return None
    evidence = read_evidence(lake, task.name, made.artifact_id)
    first, metric = evidence.benchmarks[0], evidence.primary_metric
    sides = {arm.name: _side(arm, metric) for arm in first.arms}
    return Return(
        evaluation_id=evidence.evaluation_id,
        metric=metric,
        rows=first.rows,
        adapter=sides[NEW_ARM],
        baseline=sides[BASELINE],
        champion=sides.get(CHAMPION),
        currency=evidence.currency,
    )


def _side(arm: ArmEvidence, metric: str) -> Side:
    measured, usage = arm.metrics[metric], arm.usage
    return Side(
        value=measured.value,
        lower=measured.lower,
        upper=measured.upper,
        cost_per_1000=usage.cost_per_1000,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )
