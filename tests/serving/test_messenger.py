"""The gateway has what waits sent by a process of its own: without Dagster, and never in the way of a request."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_platform.announcements import Event, announce
from finetune_platform.database import Database
from finetune_platform.notifications.outbox import newest, waiting
from finetune_platform.serving import messenger
from finetune_platform.serving.messenger import Messenger
from finetune_platform.serving.rollout_clock import RolloutClock
from finetune_platform.settings import Settings

EVENT = Event(kind="rollback", task="topics", subject="ro-1", what="ad-2 was rolled back", next_step="none")


@pytest.fixture
def database(settings_env: Settings) -> Iterator[Database]:
    opened = Database(settings_env.database_url)
    yield opened
    opened.close()


def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_rollback_is_tried_to_be_told_by_the_gateways_own_clock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_URLS", "json://127.0.0.1:9/x")
    announce(database, EVENT)
    clock = RolloutClock([], database, Messenger(database, True), every_s=0.05)
    clock.start()
    # Nobody listens there; that it was tried is noted.
    until(lambda: newest(database, "topics", 1)[0].attempts == 1)
    clock.stop()
    assert waiting(database) == 1


def test_a_gateway_that_knows_nobody_to_tell_starts_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(database, EVENT)
    monkeypatch.setattr(messenger.subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    Messenger(database, False).look()


def test_a_process_that_ends_badly_is_not_started_again_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(database, EVENT)
    monkeypatch.setenv("NOTIFY_URLS", "no address")
    messages = Messenger(database, True)
    messages.look()
    process = messages._process
    assert process is not None
    assert process.wait(60) == 2
    messages.look()
    assert messages._process is None


def test_no_process_to_be_had_does_not_end_the_clock(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*arguments: Any, **options: Any) -> None:
        asked.append(arguments)
        raise OSError("no memory")

    announce(database, EVENT)
    monkeypatch.setattr(messenger.subprocess, "Popen", refuse)
    monkeypatch.setattr(messenger, "PAUSE_S", 0.0)
    clock = RolloutClock([], database, Messenger(database, True), every_s=0.01)
    clock.start()
    until(lambda: len(asked) > 2, 20)
    clock.stop()
