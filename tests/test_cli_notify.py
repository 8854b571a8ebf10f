"""`finetune notify`, and what doctor and validate say of who is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_platform.announcements import Event, announce
from finetune_platform.cli import app
from finetune_platform.database import Database
from finetune_platform.settings import Settings, settings

EVENT = Event(kind="alarm", task="ticket_topics", subject="rf-1", what="Traffic changed", next_step="look")
NOBODY_LISTENS = "ops=json://user:hunter2@127.0.0.1:9/x"


def call(*arguments: str, expect: int = 0) -> str:
    told = CliRunner().invoke(app, list(arguments))
    assert told.exit_code == expect, told.output + repr(told.exception)
    assert "hunter2" not in told.output
    return told.output


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets NOTIFY_URLS."""

    def name(urls: str) -> None:
        monkeypatch.setenv("NOTIFY_URLS", urls)
        settings.cache_clear()

    return name


@pytest.fixture
def database(settings_env: Settings) -> Iterator[Database]:
    opened = Database(settings_env.database_url)
    yield opened
    opened.close()


def test_a_test_message_tells_what_came_of_each_target(settings_env: Settings, task_file: Any, told: Any) -> None:
    task_file()
    assert "NOTIFY_URLS is not set" in call("notify", "test", expect=2)
    told(f"{NOBODY_LISTENS}, other=nosuch://hunter2")
    said = call("notify", "test", expect=1)
    assert "✗ ops (json): " in said and "✗ other (nosuch): nosuch:// is not an address that Apprise understands" in said
    [one] = json.loads(call("notify", "test", "ticket_topics", "--json", expect=1))["targets"][:1]
    assert (one["target"], one["taken"]) == ("ops", False)


def test_a_tasks_own_targets_are_tested_and_checked(settings_env: Settings, task_file: Any, told: Any) -> None:
    path: Path = task_file(notifications={"to": ["opps"]})
    told(NOBODY_LISTENS)
    assert 'has no target opps; did you mean "ops"' in call("notify", "test", "ticket_topics", expect=2)
    said = " ".join(call("validate", str(path), expect=2).split())
    assert 'ticket_topics: notifications.to: NOTIFY_URLS has no target opps; did you mean "ops"?' in said


def test_what_was_announced_and_what_became_of_it(database: Database, told: Any, task_file: Any) -> None:
    task_file()
    assert "nothing was announced yet" in call("notify", "show")
    announce(database, EVENT)
    said = call("notify", "show", "ticket_topics")
    assert "alarm  Traffic changed" in said and "waiting" in said
    told(NOBODY_LISTENS)
    assert "0 messages sent; ops: " in call("notify", "send", expect=1)
    assert "tried 1 times" in call("notify", "show")
    [shown] = json.loads(call("notify", "show", "--json"))["notifications"]
    assert (shown["key"], shown["state"], shown["attempts"]) == ("alarm:ticket_topics:rf-1", "waiting", 1)


@pytest.mark.parametrize(
    ("urls", "state", "message"),
    [
        ("", "ok", "nobody is told"),
        (NOBODY_LISTENS, "ok", "ops (json); `finetune notify test`"),
        ("slack://hunter2", "fail", "slack: slack:// is not an address"),
        ("hunter2", "fail", "entry 1 is no address"),
    ],
)
def test_doctor_tells_who_is_told(
    settings_env: Settings, task_file: Any, told: Any, urls: str, state: str, message: str
) -> None:
    from finetune_platform.commands.checkup import check_all

    task_file()
    told(urls)
    [check] = [check for check in check_all(settings()) if check.name == "notify"]
    assert check.state == state and message in check.message and "hunter2" not in check.message
    assert bool(check.mend) == (state == "fail")
