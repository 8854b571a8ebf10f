"""What a lead is given to decide, without a browser."""

from typing import Any

import pytest
from review_batches import BATCH, TASK, a_batch, item, say

from finetune_platform.database import Database
from finetune_platform.labeling.answering import Annotation, annotate
from finetune_platform.labeling.batches import read_batch
from finetune_platform.review.decisions import Decisions, Docket, sides_of
from finetune_platform.review.desk import SaidElsewhere
from finetune_platform.task import Task
from finetune_platform.task_file import load_task


@pytest.fixture
def task(task_file: Any) -> Task:
    return load_task(task_file(name=TASK))


def disputed(database: Database, rows: int = 3) -> None:
    a_batch(database, [item(f"q{i}", wanted=2) for i in range(rows)])
    for number in range(1, rows + 1):
        say(database, number, "ann", "greeting")
        say(database, number, "bob", "farewell")


def docket_of(decisions: Decisions) -> Docket:
    found = decisions.docket()
    assert found is not None
    return found


def test_rows_come_one_after_the_other_and_go_round(database: Database, task: Task) -> None:
    disputed(database)
    decisions = Decisions(database, task, "cy")
    docket = docket_of(decisions)
    assert docket.waiting == (1, 2, 3)
    first = decisions.go(docket, None, "later")
    assert first is not None and first.row.number == 1
    later = decisions.go(docket, first, "later")
    assert later is not None and later.row.number == 2
    decisions.decide(later, Annotation("answer", "greeting"))
    docket = docket_of(decisions)
    third = decisions.go(docket, later, "later")
    assert third is not None and third.row.number == 3
    again = decisions.go(docket, third, "later")
    assert again is not None and again.row.number == 1, "what was left for later"
    mine = decisions.go(docket, again, "earlier")
    assert mine is not None and mine.row.number == 2 and mine.decided is not None and mine.decided.answer == "greeting"


def test_a_lead_does_not_decide_on_an_answer_of_their_own(database: Database, task: Task) -> None:
    disputed(database, 1)
    docket = docket_of(Decisions(database, task, "ann"))
    assert (docket.waiting, docket.others) == ((), 1)


def test_flags_and_skips_show_their_reasons_after_the_answers(database: Database, task: Task) -> None:
    a_batch(database, [item(wanted=2)])
    annotate(database, BATCH, 1, "bob", Annotation("flag", reason="a name in it"))
    say(database, 1, "ann", "greeting")
    decisions = Decisions(database, task, "cy")
    dispute = decisions.go(docket_of(decisions), None, "later")
    assert dispute is not None
    assert [(s.letter, s.said.decision) for s in dispute.sides] == [("A", "answer"), ("B", "flag")]
    decisions.decide(dispute, Annotation("flag", reason="private"))
    assert read_batch(database, BATCH).rows[0].outcome.state == "excluded"


def test_a_is_not_always_the_same_person(database: Database) -> None:
    disputed(database, 20)
    rows = read_batch(database, BATCH).rows
    first = [sides_of(BATCH, row)[0].said.reviewer for row in rows]
    assert 4 <= first.count("ann") <= 16
    assert first == [sides_of(BATCH, row)[0].said.reviewer for row in read_batch(database, BATCH).rows]


def test_a_decision_in_another_tab_is_not_overwritten_without_a_word(database: Database, task: Task) -> None:
    disputed(database, 1)
    decisions = Decisions(database, task, "cy")
    dispute = decisions.go(docket_of(decisions), None, "later")
    assert dispute is not None
    decisions.decide(dispute, Annotation("answer", "greeting"))
    with pytest.raises(SaidElsewhere) as told:
        decisions.decide(dispute, Annotation("answer", "farewell"))
    decisions.decide(dispute._replace(decided=told.value.said), Annotation("answer", "farewell"))
    assert read_batch(database, BATCH).rows[0].outcome.answer == "farewell"
