"""Events are written down once each, with the decision that they tell of or not at all."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from announced import event
from pydantic import ValidationError

from finetune_platform.announcements import MOST_CHARACTERS, announce, announce_in, operators_page, something_waits
from finetune_platform.database import Database
from finetune_platform.notifications.outbox import newest, waiting


def test_the_same_event_is_one_however_often_and_by_how_many_it_is_announced(database: Database) -> None:
    assert announce(database, event(1))
    assert not announce(database, event(1))
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: announce(database, event(2)), range(8)))
    assert sorted(told) == [False] * 7 + [True]
    # Another kind, task or subject is another event.
    assert announce(database, event(1, kind="alarm")) and announce(database, event(1, task="other"))
    assert waiting(database) == 4


def test_an_event_is_lost_with_the_decision_that_it_tells_of(database: Database) -> None:
    with pytest.raises(RuntimeError, match="no decision"), database.session() as session:
        announce_in(session, event())
        raise RuntimeError("no decision")
    assert waiting(database) == 0


def test_no_text_keeps_an_event_from_being_told(database: Database) -> None:
    announce(database, event().model_copy(update={"what": "a\0b\ud800" + "x" * 9000}))
    [row] = newest(database, None, 9)
    assert row.what.startswith("a\ufffdb\ufffdxxx") and row.what.endswith("x…") and len(row.what) == MOST_CHARACTERS


def test_what_waits_is_seen_from_its_time_on(database: Database) -> None:
    now = datetime.now(UTC)
    assert not something_waits(database, now)
    announce(database, event(), now)
    assert something_waits(database, now)
    assert not something_waits(database, now - timedelta(seconds=1))


def test_a_subject_that_no_column_holds_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValidationError, match="subject"):
        event().model_validate({**event().model_dump(), "subject": "x" * 121})


def test_a_task_name_cannot_break_a_link() -> None:
    assert operators_page("a&b") == "gateway:operator/?task=a%26b"
