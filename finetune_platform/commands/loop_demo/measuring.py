"""Quality before and after on the same sentences, with the interval of the difference."""

from collections.abc import Sequence
from typing import NamedTuple

from finetune_platform.commands.loop_demo.traffic import Answer
from finetune_platform.evaluation.metrics import build_metrics
from finetune_platform.evaluation.scores import build_scores
from finetune_platform.task import Task

BEFORE, AFTER, ALPHA = "before", "after", 0.05


class Change(NamedTuple):
    """One metric of two adapters on the same rows; `lower` and `upper` are the 95% interval of the difference."""

    metric: str
    before: float
    after: float
    difference: float
    lower: float
    upper: float
    rows: int


def changes(task: Task, before: Sequence[Answer], after: Sequence[Answer]) -> list[Change]:
    """Every metric of the task, on the sentences that both answered."""
    later = {answer.question: answer for answer in after}
    both = [(answer, later[answer.question]) for answer in before if answer.question in later]
    metrics = build_metrics(task.evaluation)
    scores = build_scores(
        metrics,
        {BEFORE: [one.answer for one, _ in both], AFTER: [other.answer for _, other in both]},
        [one.gold for one, _ in both],
        [one.question for one, _ in both],
        {},
    )
    part = scores.part("all")
    found = []
    for metric in metrics:
        estimate = part.difference(AFTER, BEFORE, metric.name, ALPHA)
        found.append(
            Change(
                metric.name,
                part.value(BEFORE, metric.name),
                part.value(AFTER, metric.name),
                estimate.value,
                estimate.lower,
                estimate.upper,
                len(both),
            )
        )
    return found
