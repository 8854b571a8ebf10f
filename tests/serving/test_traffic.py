"""Traffic in numbers: every request is counted once, whatever happens to threads, clocks and the database."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.serving.latency_bins import LATENCY_BINS_MS, latency_bin
from finetune_platform.serving.traffic import (
    BUCKET_S,
    ArmKey,
    Counts,
    Told,
    Traffic,
    bucket_of,
    forget,
    last_closed,
    told,
    total,
)

BEGIN = datetime(2024, 5, 1, 12, tzinfo=UTC)
LONG_AGO, FAR_AHEAD = BEGIN - timedelta(days=9), BEGIN + timedelta(days=9)
CANARY = ArmKey("topics", "ad-2", "canary")
CHAMPION = ArmKey("topics", "ad-1", "champion")


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now


def answer(traffic: Traffic, key: ArmKey, latency_ms: float = 100.0, **changes: Any) -> None:
    figures = {"format_valid": True, "refused": False, "prompt_tokens": 5, "completion_tokens": 2}
    traffic.answered(key, latency_ms=latency_ms, **figures | changes)


def all_told(database: Database, task: str = "topics") -> list[Told]:
    with database.reading() as session:
        return told(session, task, LONG_AGO, FAR_AHEAD)


def total_of(database: Database, key: ArmKey) -> Counts:
    return total(all_told(database, key.task), key.adapter, (key.arm,))


def test_what_happened_is_counted_by_arm_and_kind(database: Database) -> None:
    traffic = Traffic(database, "gw-1", Clock())
    answer(traffic, CANARY)
    answer(traffic, CANARY, format_valid=False, latency_ms=1e9)
    answer(traffic, CANARY, refused=True)
    answer(traffic, CANARY, format_valid=None)
    traffic.failed(CANARY)
    traffic.rated(CANARY, positive=True)
    traffic.rated(CANARY, positive=False)
    answer(traffic, CHAMPION)
    assert traffic.tell()
    counted = total_of(database, CANARY)
    assert (counted.n, counted.good, counted.errors, counted.refusals) == (5, 2, 1, 1)
    assert (counted.format_n, counted.invalid_format) == (3, 1)
    assert (counted.feedback_n, counted.feedback_negative) == (2, 1)
    assert (counted.prompt_tokens, counted.completion_tokens) == (20, 8)
    assert counted.latency[latency_bin(100.0)] == 3 and counted.latency[len(LATENCY_BINS_MS)] == 1
    assert sum(counted.latency) == counted.n - counted.errors
    assert total_of(database, CHAMPION).n == 1
    assert all_told(database, "other") == []


def test_counts_of_many_threads_and_gateways_add_up_and_are_told_once(database: Database) -> None:
    gateways = [Traffic(database, f"gw-{number}", tell_s=0.01) for number in range(2)]
    database.upgrade()
    for traffic in gateways:
        traffic.start()

    def serve(worker: int) -> None:
        for number in range(300):
            answer(gateways[worker % 2], CANARY if number % 3 else CHAMPION)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(serve, range(8)))
    for traffic in gateways:
        traffic.stop()
    with database.reading() as session:
        rows = told(session, "topics", LONG_AGO, datetime.now(UTC) + timedelta(days=1))
    assert total(rows, "ad-2", ("canary",)).n == 1600
    assert total(rows, "ad-1", ("champion",)).n == 800


def test_what_is_told_while_the_database_is_away_is_told_later_and_in_a_span_that_is_not_over(
    database: Database, outage: Any
) -> None:
    clock = Clock()
    traffic = Traffic(database, "gw-1", clock)
    answer(traffic, CANARY)
    assert traffic.tell()
    answer(traffic, CANARY)
    with outage():
        assert not traffic.tell()
        answer(traffic, CANARY)
        assert not traffic.tell()
    clock.now += timedelta(minutes=1)
    assert traffic.tell()
    assert [(one.bucket, one.counts.n) for one in all_told(database)] == [
        (BEGIN, 1),
        (BEGIN + timedelta(minutes=1), 2),
    ]
    assert traffic.tell() and total_of(database, CANARY).n == 3


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_that_was_not_answered_is_neither_lost_nor_doubled(
    database: Database, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    clock = Clock()
    traffic = Traffic(database, "gw-1", clock)
    answer(traffic, CANARY)
    traffic.tell()
    answer(traffic, CANARY)
    answer(traffic, CHAMPION)
    with monkeypatch.context() as patched:
        patched.setattr(database._engine.dialect, "do_commit", _unanswered(database, committed))
        assert not traffic.tell()
        answer(traffic, CANARY)
        assert not traffic.tell()
    clock.now += timedelta(minutes=1)
    assert traffic.tell()
    assert (total_of(database, CANARY).n, total_of(database, CHAMPION).n) == (3, 1)
    assert traffic.tell() and total_of(database, CANARY).n == 3


def _unanswered(database: Database, committed: bool) -> Callable[[Any], None]:
    """A server whose word at the end of a transaction is lost."""
    dialect = database._engine.dialect
    do_commit = dialect.do_commit
    lost = {"sqlite": sqlite3.OperationalError("disk I/O error"), "postgresql": psycopg.OperationalError("gone")}

    def commit(connection: Any) -> None:
        if committed:
            do_commit(connection)
        raise lost[dialect.name]

    return commit


def test_a_span_that_is_over_never_changes(database: Database) -> None:
    clock = Clock()
    traffic = Traffic(database, "gw-1", clock)
    answer(traffic, CANARY)
    traffic.tell()
    before = all_told(database)
    clock.now += timedelta(seconds=BUCKET_S)
    answer(traffic, CANARY)
    traffic.tell()
    # A clock that is set back.
    clock.now -= timedelta(seconds=3 * BUCKET_S)
    answer(traffic, CANARY)
    traffic.tell()
    after = all_told(database)
    assert after[0] == before[0]
    assert [(one.bucket, one.counts.n) for one in after] == [(BEGIN, 1), (BEGIN + timedelta(seconds=BUCKET_S), 2)]


def test_who_waited_for_a_lock_writes_to_the_span_in_which_it_got_it(database: Database) -> None:
    database.upgrade()
    clock = Clock()
    traffic = Traffic(database, "gw-1", clock)
    answer(traffic, CANARY)
    with ThreadPoolExecutor(1) as pool:
        with database.session() as session:
            serialize(session.connection())
            telling = pool.submit(traffic.tell)
            with pytest.raises(TimeoutError):
                telling.result(timeout=0.3)
            clock.now += timedelta(minutes=1)
        assert telling.result(timeout=20)
    assert [one.bucket for one in all_told(database)] == [BEGIN + timedelta(minutes=1)]


def test_reading_spans_one_after_the_other_meets_each_once(database: Database) -> None:
    clock = Clock()
    traffic = Traffic(database, "gw-1", clock)
    read_until, met = BEGIN - timedelta(hours=1), 0
    for second in range(120):
        clock.now = BEGIN + timedelta(seconds=second)
        answer(traffic, CANARY)
        traffic.tell()
        if second % 7 == 0:
            until = max(read_until, last_closed(clock.now, timedelta(seconds=3)))
            with database.reading() as session:
                met += sum(one.counts.n for one in told(session, "topics", read_until, until))
            read_until = until
    with database.reading() as session:
        met += sum(one.counts.n for one in told(session, "topics", read_until, FAR_AHEAD))
    assert met == 120


def test_a_span_is_closed_when_it_is_over_for_the_slowest_clock() -> None:
    grace = timedelta(seconds=3)
    assert bucket_of(BEGIN + timedelta(seconds=9.99)) == BEGIN
    assert last_closed(BEGIN + timedelta(seconds=12.99), grace) == BEGIN - timedelta(seconds=10)
    assert last_closed(BEGIN + timedelta(seconds=13), grace) == BEGIN


def test_old_spans_can_be_forgotten(database: Database) -> None:
    clock = Clock()
    traffic = Traffic(database, "gw-1", clock)
    for _ in range(3):
        answer(traffic, CANARY)
        traffic.tell()
        clock.now += timedelta(days=1)
    assert forget(database, BEGIN + timedelta(days=2)) == 2
    assert [one.bucket for one in all_told(database)] == [BEGIN + timedelta(days=2)]
