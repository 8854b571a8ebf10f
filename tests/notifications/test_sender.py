"""What waits reaches real servers: once each, bundled where there is much, again where one was away."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from announced import event, place_of
from receivers import MailServer, WebHook
from sqlalchemy import update

from finetune_platform.announcements import Notification, announce, something_waits
from finetune_platform.database import Database
from finetune_platform.notifications import outbox
from finetune_platform.notifications.outbox import claim, finish, newest, note_delivered, waiting
from finetune_platform.notifications.sender import send_waiting
from finetune_platform.task import Task
from finetune_platform.task_notifications import Notifications

MINUTE = timedelta(minutes=1)


def with_section(task: Task, **section: Any) -> Task:
    return task.model_copy(update={"notifications": Notifications(**section)})


def let_pass(database: Database, time: timedelta) -> None:
    """As if everything so far had happened so much earlier."""
    columns = ("created_at", "not_before", "claimed_until", "sent_at")
    with database.session() as session:
        for row in session.query(Notification):
            for column in columns:
                if (moment := getattr(row, column)) is not None:
                    setattr(row, column, moment - time)


def states(database: Database) -> list[str]:
    return [row.state for row in reversed(newest(database, None, 999))]


def test_a_message_says_what_happened_where_and_what_to_do(database: Database, task: Task, hook: WebHook) -> None:
    announce(database, event(7))
    place = place_of(hook.url, dagster_url="https://dagster.example/")
    assert send_waiting(database, [task], place).words == "1 message sent"
    [message] = hook.taken
    assert message["title"] == "ticket_topics: a run failed"
    assert message["message"].splitlines() == [
        "event 7 happened",
        "https://dagster.example/runs/abc",
        "next: `finetune status`",
    ]
    assert send_waiting(database, [task], place).messages == 0
    assert hook.asked == 1
    # Without a public address there is no link, rather than a wrong one.
    announce(database, event(8))
    send_waiting(database, [task], place_of(hook.url))
    assert hook.taken[1]["message"].splitlines() == ["event 8 happened", "next: `finetune status`"]


def test_nobody_to_tell_leaves_events_waiting(database: Database, task: Task, hook: WebHook) -> None:
    announce(database, event())
    assert send_waiting(database, [task], place_of()).messages == 0
    assert waiting(database) == 1
    send_waiting(database, [task], place_of(hook.url))
    assert (waiting(database), len(hook.taken)) == (0, 1)


def test_only_the_kinds_and_targets_that_the_task_file_names(
    database: Database, task: Task, hook: WebHook, mail: MailServer
) -> None:
    announce(database, event(1, kind="promotion"))
    announce(database, event(2, kind="alarm"))
    choosy = with_section(task, kinds=["alarm"], to=["mail"])
    send_waiting(database, [choosy], place_of(f"ops={hook.url}", f"mail={mail.url}"))
    assert states(database) == ["silent", "sent"]
    assert (hook.asked, len(mail.taken)) == (0, 1)


def test_surplus_is_one_message(database: Database, task: Task, hook: WebHook) -> None:
    busy = with_section(task, most_per_hour=3)
    place = place_of(hook.url)
    start = datetime.now(UTC) - MINUTE
    for number in range(9):
        announce(database, event(number), start + timedelta(seconds=number))
    assert send_waiting(database, [busy], place).messages == 3
    assert hook.titles == ["ticket_topics: a run failed"] * 2 + ["ticket_topics: 7 more"]
    lines = hook.taken[2]["message"].splitlines()
    assert lines[0] == "- a run failed: event 2 happened" and len(lines) == 8
    assert lines[-1] == "next: `finetune notify show ticket_topics`"
    # The hour is full: what comes now waits, another task's does not, and no rollback ever does.
    for more in (event(10), event(11), event(12, task="other"), event(13, kind="rollback")):
        announce(database, more)
    assert send_waiting(database, [busy], place).messages == 2
    assert waiting(database) == 2
    # Nor does a gateway start a process for it before then.
    assert not something_waits(database, datetime.now(UTC))
    let_pass(database, timedelta(minutes=61))
    announce(database, event(14))
    assert send_waiting(database, [busy], place).messages == 3
    assert (waiting(database), hook.titles[-1]) == (0, "ticket_topics: a run failed")


def test_rollbacks_take_no_place_in_the_hour(database: Database, task: Task, hook: WebHook) -> None:
    few = with_section(task, most_per_hour=2)
    for number in range(3):
        announce(database, event(number, kind="rollback"))
    assert send_waiting(database, [few], place_of(hook.url)).messages == 3
    announce(database, event(7))
    assert send_waiting(database, [few], place_of(hook.url)).messages == 1


def test_a_target_that_is_away_gets_it_later_and_nobody_gets_it_twice(
    database: Database, task: Task, hook: WebHook, mail: MailServer
) -> None:
    place = place_of(f"ops={hook.url}", f"mail={mail.url}")
    hook.status = 503
    for number in range(3):
        announce(database, event(number))
    sent = send_waiting(database, [task], place)
    # The broken one is asked once a round, whatever waits.
    assert (sent.messages, list(sent.problems), hook.asked, len(mail.taken)) == (0, ["ops"], 1, 3)
    assert {(row.attempts, tuple(row.delivered)) for row in newest(database, None, 9)} == {(1, ("mail",))}
    assert "503" in newest(database, None, 1)[0].error or "ops: " in newest(database, None, 1)[0].error
    assert send_waiting(database, [task], place).problems == {}, "tried again before the pause was over"
    hook.status = 200
    let_pass(database, MINUTE)
    assert send_waiting(database, [task], place).messages == 3
    assert (len(hook.taken), len(mail.taken), states(database)) == (3, 3, ["sent"] * 3)


def test_what_piled_up_while_nobody_answered_comes_as_a_bundle(database: Database, task: Task, hook: WebHook) -> None:
    few = with_section(task, most_per_hour=2)
    hook.status = 500
    for number in range(6):
        announce(database, event(number))
        send_waiting(database, [few], place_of(hook.url))
    hook.status = 200
    let_pass(database, 2 * MINUTE)
    assert send_waiting(database, [few], place_of(hook.url)).messages == 2
    assert hook.titles == ["ticket_topics: a run failed", "ticket_topics: 5 more"]


def test_pauses_grow_and_end_and_old_news_is_given_up(database: Database, task: Task, hook: WebHook) -> None:
    hook.status = 500
    announce(database, event())
    pauses = []
    for _ in range(9):
        send_waiting(database, [task], place_of(hook.url))
        [row] = newest(database, None, 1)
        pauses.append((row.not_before - datetime.now(UTC)).total_seconds())
        with database.session() as session:
            session.execute(update(Notification).values(not_before=datetime.now(UTC)))
    assert pauses == pytest.approx([30, 60, 120, 240, 480, 960, 1920, 3600, 3600], abs=5)
    let_pass(database, timedelta(days=3))
    assert send_waiting(database, [task], place_of(hook.url)).messages == 0
    assert states(database) == ["given_up"]


def test_a_target_that_hangs_costs_its_time_and_no_more(
    database: Database, task: Task, hook: WebHook, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_platform.notifications.targets.TIMEOUT_S", 0.5)
    hook.slow_s = 3.0
    announce(database, event(1))
    announce(database, event(2))
    started = datetime.now(UTC)
    sent = send_waiting(database, [task], place_of(hook.url, mail.url))
    assert datetime.now(UTC) - started < timedelta(seconds=2.5)
    assert (len(mail.taken), "json" in sent.problems) == (2, True)


def test_a_target_that_the_setting_does_not_have_is_told(database: Database, task: Task, hook: WebHook) -> None:
    announce(database, event())
    announce(database, event(2, task="other"))
    sent = send_waiting(database, [with_section(task, to=["nobody"])], place_of(hook.url))
    assert "has no target nobody" in sent.words
    assert len(hook.taken) == 1


def test_many_senders_at_once_send_each_message_once(database: Database, task: Task, hook: WebHook) -> None:
    many = with_section(task, most_per_hour=100)
    for number in range(20):
        announce(database, event(number))
    hook.slow_s = 0.02
    with ThreadPoolExecutor(4) as pool:
        sent = list(pool.map(lambda _: send_waiting(database, [many], place_of(hook.url)).messages, range(4)))
    assert sum(sent) == 20
    assert len({message["message"] for message in hook.taken}) == len(hook.taken) == 20


def test_a_sender_killed_before_it_could_note_is_followed_by_another(database: Database, task: Task) -> None:
    announce(database, event())
    now = datetime.now(UTC)
    first = claim(database, {}, now, MINUTE)
    assert first is not None
    # It is sent, and the process dies here: until the claim runs out nobody knows better.
    assert claim(database, {}, now + timedelta(seconds=59), MINUTE) is None
    again = claim(database, {}, now + timedelta(seconds=61), MINUTE)
    assert again is not None and again.keys == first.keys
    # Noted for one of two targets and killed then: that one is not sent to again.
    note_delivered(database, again, "mail", now)
    third = claim(database, {}, now + timedelta(seconds=200), MINUTE)
    assert third is not None and (third.message_id, set(third.done)) == (again.message_id, {"mail"})
    finish(database, third, {}, now)
    assert states(database) == ["sent"]


def test_a_bundle_stays_together_for_the_target_that_was_away(database: Database, task: Task) -> None:
    now = datetime.now(UTC)
    sections = {task.name: Notifications(most_per_hour=1)}
    for number in range(3):
        announce(database, event(number), now)
    bundle = claim(database, sections, now, MINUTE)
    assert bundle is not None and len(bundle.events) == 3
    note_delivered(database, bundle, "mail", now)
    finish(database, bundle, {"ops": "away"}, now)
    announce(database, event(9), now)
    later = claim(database, sections, now + outbox.FIRST_PAUSE, MINUTE)
    assert later is not None and sorted(later.keys) == sorted(bundle.keys)


def test_the_process_that_a_gateway_starts_sends_what_waits(
    settings_env: Any, task: Task, hook: WebHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(settings_env.database_url)
    announce(database, event())
    monkeypatch.setenv("NOTIFY_URLS", hook.url)
    command = [sys.executable, "-m", "finetune_platform.notifications"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(hook.taken)) == (0, 1), done.stderr
    monkeypatch.setenv("NOTIFY_URLS", "hunter2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "NOTIFY_URLS: entry 1" in done.stderr and "hunter2" not in json.dumps(done.stderr)
    database.close()
