"""What people are shown in Label Studio, what their annotations say, and that reading what changes misses nothing.

The server itself is in test_label_studio_real.py; annotations here are as a real one answers.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_batches import BATCH, a_batch, item

from finetune_platform.database import Database
from finetune_platform.labeling.answering import Annotation, adjudicate, annotate
from finetune_platform.labeling.batches import Reviewed, close_batch, read_batch
from finetune_platform.labeling.items import Item
from finetune_platform.labeling.label_studio.form import HIDDEN, form_of, labeling_config, said_in
from finetune_platform.labeling.label_studio.projects import (
    Place,
    forget,
    keep_project,
    known_project,
    unfinished_batches,
)
from finetune_platform.labeling.label_studio.pull import MARGIN, Pulled, following, take
from finetune_platform.rows import Message

PEOPLE = {2: "bob@example.com", 3: "ann@example.com"}
BOB, ANN = "label_studio:bob@example.com", "label_studio:ann@example.com"
# XML knows no control characters; a label that holds one is refused by the server.
LABELS = st.lists(st.text(st.characters(exclude_categories=("C",)), min_size=1), min_size=1, max_size=20, unique=True)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'finetune.db'}")
    yield opened
    opened.close()


def result_of(name: str, kind: str, value: Any) -> dict[str, Any]:
    part = {"choices": {"choices": [value]}, "textarea": {"text": [value]}, "rating": {"rating": value}}[kind]
    to = "suggestion" if kind == "rating" else "conversation"
    return {"value": part, "id": "zPS8", "from_name": name, "to_name": to, "type": kind, "origin": "manual"}


def annotation(
    number: int, author: int | None, *results: dict[str, Any], second: int = 0, cancelled: bool = False
) -> dict[str, Any]:
    """As `GET /api/tasks?fields=all` has it, of Label Studio 1.23.2."""
    return {
        "id": number,
        "result": list(results),
        "created_username": " bob@example.com, 2",
        "completed_by": author,
        "was_cancelled": cancelled,
        "ground_truth": False,
        "created_at": "2026-11-22T19:48:00.592768Z",
        "updated_at": f"2026-11-22T19:48:{second:02d}.459026Z" if second else "2026-11-22T19:48:00Z",
        "lead_time": 9.5,
        "task": 7,
        "project": 1,
    }


def task_of(number: int, *annotations: dict[str, Any], task: int = 7) -> dict[str, Any]:
    return {"id": task, "meta": {"batch_id": BATCH, "number": number}, "annotations": list(annotations)}


def taken(database: Database, task: dict[str, Any], labels: list[str] | None = None) -> Pulled:
    row = read_batch(database, BATCH).rows[task["meta"]["number"] - 1]
    return take(database, BATCH, row, labels or [], task, PEOPLE)


def said(database: Database) -> list[tuple[str, str, str | None]]:
    return [
        (s.reviewer, s.decision, s.answer or s.reason) for row in read_batch(database, BATCH).rows for s in row.said
    ]


def reviewed(one: Item) -> Reviewed:
    return Reviewed(4, None, one, (), None)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_any_label_stands_in_the_form_as_it_is(labels: list[str]) -> None:
    form = ElementTree.fromstring(labeling_config(labels))
    choices = next(tag for tag in form.iter("Choices") if tag.get("name") == "answer")
    assert [choice.get("value") for choice in choices] == labels


def test_what_people_fill_in_has_names_that_annotations_come_back_under() -> None:
    for labels, answer in ((["a", "b"], "Choices"), ([], "TextArea")):
        form = ElementTree.fromstring(labeling_config(labels))
        names = {str(tag.get("name")): tag.tag for tag in form.iter() if tag.get("name")}
        assert names == {
            "conversation": "Text",
            "suggestion": "Text",
            "rating": "Rating",
            "answer": answer,
            "flag": "Choices",
            "reason": "TextArea",
        }
        assert all(tag.get("toName") in names for tag in form.iter() if tag.get("toName"))


def test_a_row_is_a_task_with_the_suggestion_as_its_prediction() -> None:
    task = form_of(BATCH, reviewed(item("hello?", "greeting")), ["greeting", "farewell"])
    assert task["data"] == {"batch_id": BATCH, "number": 4, "conversation": "hello?", "suggestion": "greeting"}
    assert task["meta"] == {"batch_id": BATCH, "number": 4}
    [prediction] = task["predictions"]
    assert prediction["result"] == [
        {
            "id": "answer",
            "from_name": "answer",
            "to_name": "conversation",
            "type": "choices",
            "value": {"choices": ["greeting"]},
        }
    ]
    written = form_of(BATCH, reviewed(item("hello?", "any text")), [])["predictions"][0]["result"][0]
    assert (written["type"], written["value"]) == ("textarea", {"text": ["any text"]})


def test_a_suggestion_that_is_hidden_or_no_label_is_no_prediction() -> None:
    hidden = form_of(BATCH, reviewed(item("hello?", "secret", hides_suggestion=True)), [])
    assert "secret" not in str(hidden) and hidden["data"]["suggestion"] == HIDDEN
    assert "predictions" not in form_of(BATCH, reviewed(item("hello?", "hi")), ["greeting"])


def test_turns_of_a_conversation_are_told_apart() -> None:
    messages = [
        Message(role="user", content="hello"),
        Message(role="assistant", tool_calls=[{"name": "clock"}]),
        Message(role="user", content="late?"),
    ]
    one = item().model_copy(update={"messages": messages})
    shown = form_of(BATCH, reviewed(one), [])["data"]["conversation"]
    assert shown == 'USER\nhello\n\nASSISTANT\n[{"name":"clock"}]\n\nUSER\nlate?'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (annotation(1, 2, result_of("answer", "choices", "greeting")), ("answer", "greeting", "", None)),
        (annotation(1, 2, result_of("answer", "textarea", "a\n  b")), ("answer", "a\n  b", "", None)),
        (
            annotation(1, 2, result_of("answer", "choices", "x"), result_of("rating", "rating", 4)),
            ("answer", "x", "", 4),
        ),
        (
            annotation(
                1,
                2,
                result_of("answer", "choices", "x"),
                result_of("flag", "choices", "Flag: this row should not be used"),
                result_of("reason", "textarea", " not English "),
            ),
            ("flag", None, "not English", None),
        ),
        (annotation(1, 2, cancelled=True), ("skip", None, "skipped in Label Studio", None)),
        (annotation(1, 2), ("answer", "", "", None)),
    ],
)
def test_what_an_annotation_says(given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    told = said_in(given, False, "x/7/1")
    assert told[:4] == expected
    assert told[4:] == (9.5, "label_studio", "x/7/1")


def test_who_did_not_see_the_models_answer_did_not_rate_it() -> None:
    given = annotation(1, 2, result_of("answer", "choices", "x"), result_of("rating", "rating", 4))
    assert said_in(given, True, "x").rating is None


def test_an_annotation_enters_once_and_edits_replace_it(database: Database) -> None:
    a_batch(database, [item(wanted=2)])
    first = task_of(1, annotation(1, 2, result_of("answer", "choices", "greeting")))
    assert taken(database, first)[:3] == (1, 0, 0)
    assert taken(database, first) == Pulled()
    edited = annotation(1, 2, result_of("answer", "choices", "farewell"), second=5)
    both = task_of(1, edited, annotation(2, 3, result_of("answer", "choices", "farewell"), second=3))
    assert taken(database, both)[:3] == (1, 1, 0)
    assert taken(database, both) == Pulled()
    assert sorted(said(database)) == [(ANN, "answer", "farewell"), (BOB, "answer", "farewell")]


def test_the_last_of_a_persons_annotations_counts_and_deleted_ones_do_not(local: Database) -> None:
    a_batch(local, [item()])
    old = annotation(1, 2, result_of("answer", "choices", "old"), second=2)
    new = annotation(2, 2, result_of("answer", "choices", "new"), second=3)
    taken(local, task_of(1, new, old))
    assert said(local) == [(BOB, "answer", "new")]
    assert taken(local, task_of(1, old))[:3] == (0, 1, 0)
    assert said(local) == [(BOB, "answer", "old")]
    assert taken(local, task_of(1))[:3] == (0, 0, 1)
    assert said(local) == []


def test_a_task_speaks_only_of_its_own_annotations(local: Database) -> None:
    """A row that has two tasks for once loses nothing; nor does what was said in the pages."""
    a_batch(local, [item(wanted=3)])
    annotate(local, BATCH, 1, "cy", Annotation("answer", "greeting"))
    taken(local, task_of(1, annotation(1, 2, result_of("answer", "choices", "greeting"))))
    taken(local, task_of(1, annotation(2, 3, result_of("answer", "choices", "greeting")), task=8))
    assert taken(local, task_of(1, task=8))[:3] == (0, 0, 1)
    assert sorted(said(local)) == [("cy", "answer", "greeting"), (BOB, "answer", "greeting")]


def test_a_deleted_account_leaves_what_its_owner_said(local: Database) -> None:
    a_batch(local, [item()])
    taken(local, task_of(1, annotation(1, 2, result_of("answer", "choices", "greeting"))))
    assert taken(local, task_of(1, annotation(1, None, result_of("answer", "choices", "greeting")))) == Pulled()
    assert said(local) == [(BOB, "answer", "greeting")]


def test_what_comes_too_late_is_named_not_taken(local: Database) -> None:
    a_batch(local, [item(wanted=2), item("q2")])
    here = annotation(1, 2, result_of("answer", "choices", "greeting"))
    taken(local, task_of(1, here, annotation(2, 3, result_of("answer", "choices", "farewell"))))
    adjudicate(local, BATCH, 1, "cy", Annotation("answer", "greeting"))
    late = taken(local, task_of(1, here))
    assert late[:3] == (0, 0, 0)
    [line] = late.refused
    assert line == f'{BATCH} row 1, {ANN}: "farewell" is not taken over: it has been decided'
    annotate(local, BATCH, 2, "cy", Annotation("answer", "greeting"))
    close_batch(local, BATCH)
    [line] = taken(local, task_of(2, annotation(3, 2, cancelled=True), task=9)).refused
    assert "skip: skipped in Label Studio is not taken over" in line and "is closed" in line


def test_an_answer_that_is_none_is_named(local: Database) -> None:
    a_batch(local, [item()])
    [line] = taken(local, task_of(1, annotation(1, 2))).refused
    assert "the answer is empty" in line
    [line] = taken(local, task_of(1, annotation(1, 2, result_of("answer", "choices", "hi"))), ["greeting"]).refused
    assert "none of the task's labels" in line
    assert said(local) == []


def test_another_project_in_place_of_a_lost_one_keeps_what_was_said(database: Database) -> None:
    a_batch(database, [item()])
    keep_project(database, BATCH, 1)
    assert keep_project(database, BATCH, 2).project_id == 1
    taken(database, task_of(1, annotation(1, 2, result_of("answer", "choices", "greeting"))))
    forget(database, BATCH)
    assert known_project(database, BATCH) is None
    # The other server counts from one as well.
    assert taken(database, task_of(1, annotation(1, 3, result_of("answer", "choices", "greeting")))).new == 1
    assert sorted(said(database)) == [(ANN, "answer", "greeting"), (BOB, "answer", "greeting")]


def test_batches_that_need_a_round(local: Database) -> None:
    for name in ("rb-1", "rb-2", "rb-3"):
        a_batch(local, [item()], cause=name, batch_id=name)
    keep_project(local, "rb-2", 2)
    for name in ("rb-2", "rb-3"):
        annotate(local, name, 1, "cy", Annotation("answer", "x"))
        close_batch(local, name)
    # An open one, and a closed one whose people have not been told; one that never went there needs nothing.
    assert unfinished_batches(local, "greetings") == ["rb-1", "rb-2"]


MOMENT = datetime(2026, 11, 22, tzinfo=UTC)
SIZE = 3


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=14),
    st.lists(st.lists(st.integers(0, 13), max_size=3), max_size=12),
)
def test_reading_while_tasks_change_misses_none(ages: list[int], changes: list[list[int]]) -> None:
    """Tasks change after every page, dated up to the margin before; a reading after the last change has them all."""
    now = MOMENT + timedelta(seconds=300)
    state = {task: (MOMENT + timedelta(seconds=age), 0) for task, age in enumerate(ages, start=1)}
    read: dict[int, int] = {}
    place, pending = Place(), list(changes)
    quiet = False
    for _ in range(200):
        found = sorted(t for t, (at, _) in state.items() if at >= place.changes_since and t > place.read_to)
        page, more = found[:SIZE], len(found) > SIZE
        for task in page:
            read[task] = state[task][1]
        place = following(place, page if more else None, now)
        if not more and quiet:
            break
        quiet = quiet if more else not pending
        for task in pending.pop(0) if pending else []:
            now += timedelta(seconds=40)
            if task in state:
                state[task] = (now - MARGIN, state[task][1] + 1)
        now += timedelta(seconds=1)
    else:
        pytest.fail("reading did not come to an end")
    assert read == {task: version for task, (_, version) in state.items()}
