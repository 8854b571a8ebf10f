"""One person's way through the rows, without a browser."""

from datetime import timedelta
from typing import Any

import pytest
from review_batches import BATCH, TASK, a_batch, item, say

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.labeling.answering import Annotation, adjudicate, next_row
from finetune_platform.labeling.batches import close_batch, read_batch
from finetune_platform.review.desk import Desk, Opened, SaidElsewhere
from finetune_platform.task import Task
from finetune_platform.task_file import load_task


@pytest.fixture
def task(task_file: Any) -> Task:
    return load_task(task_file(name=TASK))


def opened(desk: Desk) -> Opened:
    found = desk.next()
    assert found is not None
    return found


def answer(text: str, seconds: float = 4.0) -> Annotation:
    return Annotation("answer", text, seconds=seconds)


def test_back_to_what_one_said_last_and_on_again(database: Database, task: Task) -> None:
    a_batch(database, [item(f"q{i}") for i in range(4)])
    desk = Desk(database, task, "ann")
    for _ in range(2):
        desk.say(opened(desk), answer("greeting"))
    here = opened(desk)
    assert here.row.number == 3
    last = desk.go(here, "earlier")
    assert last is not None and (last.row.number, last.said and last.said.answer, last.locked) == (2, "greeting", "")
    first = desk.go(last, "earlier")
    assert first is not None and first.row.number == 1
    assert desk.go(first, "earlier") == first, "there is none before the first"
    again = desk.go(first, "later")
    assert again is not None and again.row.number == 2
    waiting = desk.go(again, "later")
    assert waiting is not None and (waiting.row.number, waiting.said) == (3, None)


def test_an_own_answer_can_be_changed_until_it_was_decided(database: Database, task: Task) -> None:
    a_batch(database, [item(wanted=2), item("q2")])
    desk = Desk(database, task, "ann")
    desk.say(opened(desk), answer("greeting"))
    mine = desk.open(BATCH, 1)
    assert mine is not None
    desk.keep(mine, "fare")
    assert (typed := desk.open(BATCH, 1)) is not None and typed.draft == "fare"
    desk.say(mine, answer("farewell"))
    assert read_batch(database, BATCH).rows[0].said[0].answer == "farewell"
    say(database, 1, "bob", "greeting")
    adjudicate(database, BATCH, 1, "cy", Annotation("answer", "greeting", "it says hello"))
    decided = desk.open(BATCH, 1)
    assert decided is not None and decided.locked == "It was decided (it says hello): greeting"
    with pytest.raises(BadInput, match="has been decided"):
        desk.say(mine._replace(said=decided.said), answer("farewell"))


def test_two_tabs_of_one_person_do_not_overwrite_each_other_without_a_word(database: Database, task: Task) -> None:
    a_batch(database, [item()])
    first, second = Desk(database, task, "ann"), Desk(database, task, "ann")
    one, other = opened(first), opened(second)
    assert one.row.number == other.row.number == 1, "both tabs have the same row"
    first.say(one, answer("greeting"))
    with pytest.raises(SaidElsewhere, match="another tab") as told:
        second.say(other, answer("farewell"))
    assert read_batch(database, BATCH).rows[0].said[0].answer == "greeting"
    second.say(other._replace(said=told.value.said), answer("farewell"))
    assert read_batch(database, BATCH).rows[0].said[0].answer == "farewell"
    assert second.say(other, answer("farewell ")) == "", "the same again is no contradiction"


def test_who_lost_a_row_meanwhile_is_told_and_heard(database: Database, task: Task) -> None:
    a_batch(database, [item()])
    desk = Desk(database, task, "ann")
    here = opened(desk)
    # The lease is over, and somebody else answers it.
    next_row(database, BATCH, "ann", timedelta(seconds=-1))
    say(database, 1, "bob", "farewell")
    assert "counts as one more" in desk.say(here, answer("greeting"))
    row = read_batch(database, BATCH).rows[0]
    assert row.outcome.state == "disputed" and {said.reviewer for said in row.said} == {"ann", "bob"}


def test_a_batch_closed_meanwhile_is_said(database: Database, task: Task) -> None:
    a_batch(database, [item()])
    desk = Desk(database, task, "ann")
    here = opened(desk)
    say(database, 1, "bob", "greeting")
    close_batch(database, BATCH)
    with pytest.raises(BadInput, match="closed"):
        desk.say(here, answer("greeting"))
    assert desk.next() is None and desk.newest() is None


def test_nobody_opens_a_row_that_they_said_nothing_of(database: Database, task: Task, task_file: Any) -> None:
    a_batch(database, [item(wanted=2)])
    say(database, 1, "bob", "greeting")
    assert Desk(database, task, "ann").open(BATCH, 1) is None
    other = load_task(task_file(name="other"))
    assert Desk(database, other, "bob").open(BATCH, 1) is None, "a row of another task"


def test_the_newest_open_batch_is_worked_on(database: Database, task: Task) -> None:
    a_batch(database, [item("old")])
    a_batch(database, [item("new")], cause="alarm 2", batch_id="rb-000000000002")
    desk = Desk(database, task, "ann")
    desk.say(opened(desk), answer("greeting"))
    close_batch(database, "rb-000000000002")
    assert opened(desk).row.item.messages[-1].content == "old"


def test_progress_is_the_batch_s_and_ones_own(database: Database, task: Task) -> None:
    a_batch(database, [item(f"q{i}", wanted=1 + (i == 0)) for i in range(5)])
    desk = Desk(database, task, "ann")
    for seconds in (2.0, 10.0):
        desk.say(opened(desk), answer("greeting", seconds))
    say(database, 1, "bob", "farewell")
    batch = desk.newest()
    assert batch is not None
    assert desk.progress(batch) == (5, 1, 1, 2, 3, 6.0)
