"""People at a batch: who is given what, what they may say, and that nobody overwrites anybody."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from review_batches import BATCH, TASK, a_batch, item, say

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.labeling.answering import Annotation, adjudicate, annotate, disputes_for, keep_draft, next_row
from finetune_platform.labeling.batches import batch_of_cause, close_batch, read_batch
from finetune_platform.labeling.items import outcome_of

LEASE = timedelta(minutes=15)
NO_LEASE = timedelta(seconds=-1)


def test_two_people_are_never_given_the_same_row_that_wants_one(database: Database) -> None:
    a_batch(database, [item(f"q{i}") for i in range(3)])
    ann, bob = next_row(database, BATCH, "ann", LEASE), next_row(database, BATCH, "bob", LEASE)
    assert ann is not None and bob is not None
    assert (ann.row.number, bob.row.number) == (1, 2)
    # Asked again, both get what they have open.
    again = next_row(database, BATCH, "ann", LEASE)
    assert again is not None and again.row.number == 1


def test_a_row_left_open_is_given_to_another_after_its_lease(database: Database) -> None:
    a_batch(database, [item()])
    assert next_row(database, BATCH, "ann", NO_LEASE) is not None
    assert next_row(database, BATCH, "bob", LEASE) is not None


def test_a_row_of_the_overlap_is_answered_by_two_and_decided_by_a_third(database: Database) -> None:
    a_batch(database, [item(wanted=2)])
    say(database, 1, "ann", "greeting")
    assert next_row(database, BATCH, "ann", LEASE) is None
    assert read_batch(database, BATCH).rows[0].outcome.state == "open"
    say(database, 1, "bob", "farewell")
    assert read_batch(database, BATCH).rows[0].outcome.state == "disputed"
    assert disputes_for(database, BATCH, "bob") == []
    with pytest.raises(BadInput, match="you answered it yourself"):
        adjudicate(database, BATCH, 1, "ann", Annotation("answer", "greeting"))
    assert [row.number for row in disputes_for(database, BATCH, "cy")] == [1]
    decided = adjudicate(database, BATCH, 1, "cy", Annotation("answer", "farewell", "it ends with goodbye"))
    assert decided.outcome[:3] == ("settled", "farewell", "adjudication")
    with pytest.raises(BadInput, match="cy has decided it"):
        adjudicate(database, BATCH, 1, "di", Annotation("answer", "greeting"))
    with pytest.raises(BadInput, match="has been decided"):
        say(database, 1, "ann", "farewell")
    assert adjudicate(database, BATCH, 1, "cy", Annotation("answer", "greeting")).outcome.answer == "greeting"


def test_white_space_is_no_disagreement(database: Database) -> None:
    a_batch(database, [item(wanted=2)])
    say(database, 1, "ann", "a  greeting ")
    say(database, 1, "bob", "a greeting")
    assert read_batch(database, BATCH).rows[0].outcome[:3] == ("settled", "a  greeting ", "agreement")


def test_flags_and_skips_go_to_whoever_decides(database: Database) -> None:
    a_batch(database, [item(), item("q2")])
    annotate(database, BATCH, 1, "ann", Annotation("flag", reason="not English"))
    annotate(database, BATCH, 2, "ann", Annotation("skip", reason="unsure"))
    rows = read_batch(database, BATCH).rows
    assert [row.outcome.state for row in rows] == ["disputed", "open"]
    given = next_row(database, BATCH, "bob", LEASE)
    assert given is not None and given.row.number == 2
    annotate(database, BATCH, 2, "bob", Annotation("skip", reason="me too"))
    adjudicate(database, BATCH, 1, "cy", Annotation("flag", reason="not English"))
    adjudicate(database, BATCH, 2, "cy", Annotation("answer", "greeting"))
    assert [row.outcome.state for row in read_batch(database, BATCH).rows] == ["excluded", "settled"]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (Annotation("answer", " "), "empty"),
        (Annotation("answer", "hi"), "none of the task's labels"),
        (Annotation("flag"), "a flag needs a reason"),
        (Annotation("answer", "greeting", rating=6), "rating is 6"),
        (Annotation("answer", "x" * 100_001), "labels|characters"),
    ],
)
def test_what_is_not_whole_is_refused_with_its_mend(database: Database, said: Annotation, problem: str) -> None:
    a_batch(database, [item()])
    with pytest.raises(BadInput, match=problem):
        annotate(database, BATCH, 1, "ann", said, ["greeting", "farewell"])
    assert read_batch(database, BATCH).rows[0].said == ()


def test_a_draft_waits_for_its_writer(database: Database) -> None:
    a_batch(database, [item(), item("q2")])
    assert next_row(database, BATCH, "ann", LEASE) is not None
    keep_draft(database, BATCH, 1, "ann", "gree", LEASE)
    given = next_row(database, BATCH, "ann", LEASE)
    assert given is not None and given.draft == "gree"
    other = next_row(database, BATCH, "bob", LEASE)
    assert other is not None and (other.row.number, other.draft) == (2, None)


def test_a_cause_has_one_batch(database: Database) -> None:
    assert a_batch(database, [item()]) == BATCH
    assert a_batch(database, [item(), item("q2")], batch_id="rb-2") == BATCH
    assert len(read_batch(database, BATCH).rows) == 1
    assert batch_of_cause(database, TASK, "alarm 1") == BATCH


def test_a_batch_is_closed_when_nothing_is_left_and_then_stays_as_it_is(database: Database) -> None:
    a_batch(database, [item()])
    with pytest.raises(BadInput, match="1 of 1 rows"):
        close_batch(database, BATCH)
    say(database, 1, "ann", "greeting")
    closed = close_batch(database, BATCH)
    assert not closed.is_open and close_batch(database, BATCH) == closed
    with pytest.raises(BadInput, match="is closed"):
        say(database, 1, "ann", "farewell")


def test_many_people_at_once_lose_nothing(database: Database) -> None:
    """Six people answer 24 rows at the same time; rows of the overlap get two answers, others one."""
    a_batch(database, [item(f"q{i}", wanted=1 + i % 2) for i in range(24)])

    def work(reviewer: str) -> int:
        done = 0
        while (given := next_row(database, BATCH, reviewer, LEASE)) is not None:
            say(database, given.row.number, reviewer, "greeting")
            done += 1
        return done

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(work, [f"person {i}" for i in range(6)]))
    batch = read_batch(database, BATCH)
    assert sum(done) == 36
    assert [len(row.said) for row in batch.rows] == [row.item.wanted for row in batch.rows]
    assert batch.is_complete


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cy", "di"]),
        st.sampled_from(["answer", "flag", "skip", "adjudicate", "exclude"]),
        st.sampled_from(["greeting", "farewell"]),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 2), STEPS)
def test_whatever_people_do_the_row_stays_consistent(
    tmp_path: Path, wanted: int, steps: list[tuple[str, str, str]]
) -> None:
    database, batch = Database(f"sqlite:///{tmp_path / 'people.db'}"), uuid4().hex
    a_batch(database, [item(wanted=wanted)], batch, batch)
    for reviewer, act, answer in steps:
        before = read_batch(database, batch).rows[0]
        try:
            if act in ("adjudicate", "exclude"):
                said = Annotation("answer", answer) if act == "adjudicate" else Annotation("flag", reason="bad")
                adjudicate(database, batch, 1, reviewer, said)
            else:
                kind = {"answer": Annotation("answer", answer)}.get(act, Annotation(act, reason="why"))  # type: ignore[arg-type]
                annotate(database, batch, 1, reviewer, kind)
        except BadInput:
            assert read_batch(database, batch).rows[0] == before
            continue
        after = read_batch(database, batch).rows[0]
        # What others said is untouched, and what follows is that of all words.
        assert [s for s in after.said if s.reviewer != reviewer] == [s for s in before.said if s.reviewer != reviewer]
        assert after.outcome == outcome_of(after.item, after.said)
        assert sum(s.adjudication for s in after.said) <= 1
        if after.outcome.state == "settled":
            assert after.outcome.how == "adjudication" or len(after.said) >= wanted
