"""What a batch tells of itself and of the people: progress, agreement, gold rows, anchoring, pace and cost.

Statistics belong in `agreement.py`; whether they let a retraining start, in `readiness.py`.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from finetune_platform.labeling.agreement import (
    Alpha,
    Answers,
    Confusion,
    Kappa,
    alpha_of,
    confusions_of,
    kappas_of,
)
from finetune_platform.labeling.batches import Batch, Reviewed
from finetune_platform.labeling.items import State, comparable


class Person(NamedTuple):
    """One reviewer's work.

    Attributes:
        gold_right: Gold rows answered as known, of `gold_answered`.
        overruled: Answers that an adjudication decided otherwise.
        seconds: Median of a row.
    """

    reviewer: str
    answered: int
    skipped: int
    flagged: int
    gold_right: int
    gold_answered: int
    overruled: int
    seconds: float | None


class Anchoring(NamedTuple):
    """Answers that equal the model's, of those given with its answer in sight and without."""

    shown_equal: int
    shown: int
    hidden_equal: int
    hidden: int


class Figures(NamedTuple):
    """A batch in figures. `hours` people had rows open, `cost` what their answers cost at the task's price."""

    states: dict[State, int]
    alpha: Alpha
    kappas: list[Kappa]
    confusions: list[Confusion]
    people: list[Person]
    anchoring: Anchoring
    hours: float
    cost: float


def figures_of(batch: Batch, price_of_a_label: float) -> Figures:
    """A batch in figures; adjudications do not enter the agreement, gold rows do."""
    answers = [_answers(row) for row in batch.rows]
    given = [said for row in batch.rows for said in row.said]
    return Figures(
        states=dict(batch.states),
        alpha=alpha_of(answers),
        kappas=kappas_of(answers),
        confusions=confusions_of(answers),
        people=[_person(name, batch.rows) for name in sorted({said.reviewer for said in given})],
        anchoring=_anchoring(batch.rows),
        hours=sum(said.seconds for said in given) / 3600,
        cost=price_of_a_label * sum(said.decision == "answer" and not said.simulated for said in given),
    )


def _answers(row: Reviewed) -> Answers:
    said = (s for s in row.said if s.decision == "answer" and not s.adjudication)
    return {s.reviewer: comparable(s.answer) for s in said}


def _person(name: str, rows: Sequence[Reviewed]) -> Person:
    own = [(row, said) for row in rows for said in row.said if said.reviewer == name]
    answered = [(row, said) for row, said in own if said.decision == "answer"]
    gold = [(row.item.gold, said.answer) for row, said in answered if row.item.gold is not None]
    overruled = [
        row
        for row, said in answered
        if row.outcome.how == "adjudication"
        and not said.adjudication
        and comparable(said.answer) != comparable(row.outcome.answer)
    ]
    seconds = [said.seconds for _, said in own if said.seconds > 0]
    return Person(
        reviewer=name,
        answered=len(answered),
        skipped=sum(said.decision == "skip" for _, said in own),
        flagged=sum(said.decision == "flag" for _, said in own),
        gold_right=sum(comparable(known) == comparable(answer) for known, answer in gold),
        gold_answered=len(gold),
        overruled=len(overruled),
        seconds=statistics.median(seconds) if seconds else None,
    )


def _anchoring(rows: Sequence[Reviewed]) -> Anchoring:
    counts = {False: [0, 0], True: [0, 0]}
    for row in rows:
        if row.item.suggestion is None or row.item.selection == "gold":
            continue
        for answer in _answers(row).values():
            counts[row.item.hides_suggestion][0] += answer == comparable(row.item.suggestion)
            counts[row.item.hides_suggestion][1] += 1
    return Anchoring(*counts[False], *counts[True])
