"""Gateways hear of changes within a second, and what they do while the database is away."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from finetune_platform import audit
from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.errors import BadInput, FinetuneError, TransientError
from finetune_platform.serving import routes
from finetune_platform.serving.kept_kills import UNREADABLE
from finetune_platform.serving.plan import Plan
from finetune_platform.serving.routes import Route, edited
from finetune_platform.serving.watch import KILL_WAIT_S, LEASE_S, RouteWatch


def change(database: Database, task: str = "topics", **changes: Any) -> Route:
    return routes.change(
        database, task, lambda plan: edited(plan, **changes), actor="cli:ann", action="route.edit", reason="because"
    )


@contextmanager
def watching(database: Database, **options: Any) -> Iterator[RouteWatch]:
    watch = RouteWatch(database, **options)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def seconds_until(true: Callable[[], bool], at_most: float = 20.0) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < at_most, "it never came"
        time.sleep(0.005)
    return time.monotonic() - began


TRIAL = {"champion": "ad-1", "canary": "ad-2", "canary_share": 0.25, "shadow": "ad-3", "shadow_share": 1.0}


def test_every_gateway_hears_of_a_change_within_a_second(database: Database, database_url: str) -> None:
    heard: list[Mapping[str, Plan]] = []
    elsewhere = Database(database_url)
    with watching(database) as here, watching(elsewhere) as there:
        here.listen(heard.append)
        assert here.plan("topics") == Plan()
        for champion in ("ad-1", "ad-2", "ad-3"):
            change(database, champion=champion)
            for watch in (here, there):
                assert seconds_until(lambda: watch.plan("topics").champion == champion) < 1.0  # noqa: B023
        routes.kill(database, "topics", actor="cli:ann", reason="wrong")
        for watch in (here, there):
            assert seconds_until(lambda: watch.plan("topics").killed == "wrong") < 1.0  # noqa: B023
        assert [plans["topics"].champion for plans in heard] == ["ad-1", "ad-2", "ad-3", "ad-3"]
        assert here.age_s < LEASE_S
    elsewhere.close()


def test_a_gateway_that_knows_no_route_does_not_start(database: Database, outage: Any) -> None:
    with outage(), pytest.raises(FinetuneError):
        RouteWatch(database).start()
    with watching(database) as watch:
        assert watch.plan("topics") == Plan()


def test_the_trials_are_paused_while_the_database_is_away_and_go_on_afterwards(database: Database, outage: Any) -> None:
    before = change(database, **TRIAL).plan
    with watching(database) as watch:
        assert watch.plan("topics") == before
        with outage():
            assert seconds_until(lambda: watch.plan("topics").canary is None) < LEASE_S + 1.0
            paused = watch.plan("topics")
            assert (paused.champion, paused.shadow, paused.allows("ad-1")) == ("ad-1", None, True)
            assert not paused.allows("ad-2") and not paused.allows("ad-3")
            assert watch.stored_plan("topics") == before
        seconds_until(lambda: watch.plan("topics") == before)


def test_the_lease_counts_from_the_question_not_from_the_answer(database: Database) -> None:
    change(database, **TRIAL)
    now = [0.0]
    slow = RouteWatch(database, clock=lambda: now[0])
    slow.look()
    reading = database.reading

    @contextmanager
    def slow_reading() -> Iterator[Any]:
        with reading() as session:
            now[0] += 0.9
            yield session

    database.reading = slow_reading  # type: ignore[method-assign]
    slow.look()
    assert slow.age_s == pytest.approx(0.9)
    now[0] += 0.2
    assert slow.plan("topics").canary is None


def test_a_kill_acts_at_once_while_the_database_is_away_and_is_written_when_it_is_back(
    database: Database, database_url: str, outage: Any
) -> None:
    change(database, **TRIAL)
    with watching(database) as watch:
        with outage():
            began = time.monotonic()
            written: list[bool] = []
            killing = threading.Thread(target=lambda: written.append(watch.kill("topics", "key:k1", "wrong")))
            killing.start()
            assert seconds_until(lambda: watch.plan("topics").killed == "wrong") < 1.0
            killing.join()
            assert written == [False] and time.monotonic() - began < KILL_WAIT_S + 2.0
        seconds_until(lambda: watch.stored_plan("topics").killed == "wrong")
        elsewhere = RouteWatch(database := Database(database_url))
        elsewhere.look()
        assert elsewhere.plan("topics").killed == "wrong"
        assert [(e.actor, e.action, e.reason) for e in audit.entries(database)][-1] == ("key:k1", "route.kill", "wrong")
        database.close()
        assert watch.kill("topics", "key:k1", "once more")
        assert len([e for e in audit.entries(database) if e.action == "route.kill"]) == 1


@pytest.mark.parametrize("damage", [False, True])
def test_a_kill_outlives_the_gateway_that_could_not_write_it(
    database: Database, tmp_path: Path, outage: Any, damage: bool
) -> None:
    change(database, champion="ad-1")
    ended = RouteWatch(database, tmp_path / "kills", poll_s=3600.0)
    ended.start()
    with outage():
        assert not ended.kill("topics", "key:k1", "wrong")
        ended.stop()
        (kept,) = (tmp_path / "kills").iterdir()
        if damage:
            kept.write_text('{"actor": "ke')
        started = RouteWatch(database, tmp_path / "kills")
        with pytest.raises(FinetuneError):
            started.start()
        assert started.plan("topics").killed is not None
        assert kept.is_file()
    started.start()
    assert started.stored_plan("topics").killed == ("wrong" if not damage else UNREADABLE)
    entry = list(audit.entries(database))[-1]
    assert (entry.action, entry.actor) == ("route.kill", "gateway" if damage else "key:k1")
    assert list((tmp_path / "kills").iterdir()) == []
    started.stop()


@pytest.mark.parametrize("reason", ["wrong", "\ud800"])
def test_a_kill_that_is_settled_is_not_repeated_by_the_next_gateway(
    database: Database, tmp_path: Path, reason: str
) -> None:
    with watching(database, kills=tmp_path / "kills") as watch:
        try:
            assert watch.kill("topics", "key:k1", reason)
        except BadInput:
            assert reason == "\ud800"
        else:
            watch.revive("topics", "key:k1", "mended")
        seconds_until(lambda: list((tmp_path / "kills").iterdir()) == [])
    with watching(database, kills=tmp_path / "kills") as watch:
        assert watch.plan("topics").killed is None


def test_a_kill_is_in_force_where_it_cannot_be_kept(database: Database, tmp_path: Path, outage: Any) -> None:
    (tmp_path / "kills").write_text("no folder")
    with watching(database, kills=tmp_path / "kills") as watch:
        with outage():
            assert not watch.kill("topics", "key:k1", "wrong")
            assert watch.plan("topics").killed == "wrong"
        seconds_until(lambda: watch.stored_plan("topics").killed == "wrong")


def test_who_kills_does_not_hang_with_a_database_that_does(database: Database) -> None:
    change(database, champion="ad-1")
    with watching(database) as watch:
        with database.session() as session:
            # Somebody who writes and never ends.
            serialize(session.connection())
            session.execute(text("DELETE FROM makings"))
            began = time.monotonic()
            assert not watch.kill("topics", "key:k1", "wrong")
            assert time.monotonic() - began < KILL_WAIT_S + 2.0
            assert watch.plan("topics").killed == "wrong"
        seconds_until(lambda: watch.stored_plan("topics").killed == "wrong")


def test_a_writer_that_does_not_end_keeps_no_gateway_from_reading(database: Database) -> None:
    before = change(database, **TRIAL).plan
    with watching(database) as watch, database.session() as session:
        serialize(session.connection())
        session.execute(text("DELETE FROM makings"))
        time.sleep(LEASE_S + 0.5)
        assert watch.plan("topics") == before


def test_a_kill_that_waits_is_ended_by_a_revival_that_came_later(database: Database, outage: Any) -> None:
    change(database, champion="ad-1")
    watch = RouteWatch(database, poll_s=3600.0)
    watch.start()
    with outage():
        assert not watch.kill("topics", "key:k1", "wrong")
        with pytest.raises(TransientError):
            watch.revive("topics", "key:k1", "mended")
        assert watch.plan("topics").killed == "wrong"
    assert watch.revive("topics", "key:k1", "mended").plan == Plan(champion="ad-1")
    assert watch.plan("topics") == Plan(champion="ad-1")
    assert [e.action for e in audit.entries(database)] == ["route.edit", "route.kill", "route.revive"]
    watch.stop()


@pytest.mark.parametrize("reason", ["", "  ", "a\0b", "\ud800"])
def test_a_kill_that_can_never_be_written_is_refused_and_stops_nothing(database: Database, reason: str) -> None:
    with watching(database) as watch:
        with pytest.raises(BadInput):
            watch.kill("topics", "key:k1", reason)
        assert watch.plan("topics").killed is None
        change(database, champion="ad-1")
        assert seconds_until(lambda: watch.plan("topics").champion == "ad-1") < 1.0


def test_a_plan_that_cannot_be_read_pauses_its_trials_and_keeps_no_other_task_from_being_heard(
    database: Database,
) -> None:
    change(database, **TRIAL)
    with watching(database) as watch:
        with database.session() as session:
            session.execute(
                text(
                    "INSERT INTO route_changes (task, plan, actor, reason, created_at) "
                    "SELECT task, '{\"mirror\": 1}', actor, reason, created_at FROM route_changes"
                )
            )
        assert seconds_until(lambda: watch.plan("topics").canary is None) < 1.0
        assert watch.plan("topics").champion == "ad-1"
        change(database, "other", champion="ad-9")
        assert seconds_until(lambda: watch.plan("other").champion == "ad-9") < 1.0
        assert watch.age_s < LEASE_S


def test_a_kill_is_not_missed_while_it_moves_into_the_routes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(database, champion="ad-1")
    watch = RouteWatch(database)
    watch.look()
    monkeypatch.setattr("finetune_platform.serving.watch.KILL_WAIT_S", 0.0)
    assert not watch.kill("topics", "key:k1", "wrong")
    stored_plan = watch.stored_plan

    def written_meanwhile(task: str) -> Plan:
        plan = stored_plan(task)
        watch.look()
        return plan

    monkeypatch.setattr(watch, "stored_plan", written_meanwhile)
    assert watch.plan("topics").killed == "wrong"
    assert watch.plan("topics").killed == "wrong"
