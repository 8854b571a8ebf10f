"""Looks at traffic, one after the other: rows enter the evidence once, whatever fails, and an alarm stands until it is
ended."""

import itertools
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from finetune_platform.database import Database
from finetune_platform.drift import monitor
from finetune_platform.drift.monitor import Traffic, look
from finetune_platform.drift.null_bounds import Vectors
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.drift.state import Champion, forget, known_of, ticks_of
from finetune_platform.errors import BadInput, TransientError
from finetune_platform.lake import Lake
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CHAMPION = Champion("ad-one", BEGIN)
STRANGE = "strange"


class Meanings:
    """Vectors by the first word of a question: strange ones lie apart."""

    def __init__(self, id: str = "em-test") -> None:
        self.id = id
        self.embedded = 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded += len(texts)
        vectors = np.array([self._vector(text) for text in texts]).reshape(len(texts), 24)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def _vector(self, text: str) -> Any:
        rng = np.random.default_rng(zlib.crc32(text.encode()))
        centre = np.random.default_rng(99 if text.startswith(STRANGE) else len(text) % 7).normal(size=24)
        return centre + 0.4 * rng.normal(size=24)


class Log:
    """Rows that come one a minute."""

    def __init__(self) -> None:
        self.rows: list[TrafficRow] = []
        self.asked: list[tuple[datetime, datetime]] = []

    def add(self, count: int, first_word: str = "card") -> datetime:
        for _ in range(count):
            number = len(self.rows)
            question = f"{first_word} {'x' * (number % 7)} {number}"
            moment = BEGIN + timedelta(minutes=number + 1)
            self.rows.append(
                TrafficRow(interaction_id=f"in-{number}", timestamp=moment, question=question, answer="card")
            )
        return self.rows[-1].timestamp + timedelta(minutes=10)

    def read(self, after: datetime, until: datetime) -> list[list[TrafficRow]]:
        self.asked.append((after, until))
        found = [row for row in self.rows if after < row.timestamp <= until]
        return [list(day) for _, day in itertools.groupby(found, lambda row: row.timestamp.hour // 4)]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def task(task_file: Any) -> Task:
    return load_task(task_file(drift={"reference_rows": 400}))


@pytest.fixture
def look_at(task: Task, log: Log, local_lake: Lake, database: Database) -> Callable[..., DriftManifest]:
    def looked(now: datetime, champion: Champion = CHAMPION, embedder: Meanings | None = None) -> DriftManifest:
        traffic = Traffic(champion, log.read, lambda: embedder or Meanings())
        return look(task, traffic, local_lake, database, now, lambda line: None)

    return looked


def test_first_a_reference_is_gathered_then_looks_begin(look_at: Callable[..., DriftManifest], log: Log) -> None:
    first = look_at(log.add(150))
    assert (first.status, first.rows, first.parents) == ("gathering", 150, {})
    assert first.headline == "gathering the reference of ad-one: 150 of 400 rows"
    then = look_at(log.add(350))
    assert (then.status, then.tick, then.rows, then.counted) == ("quiet", 1, 100, 100)
    again = look_at(log.add(100))
    assert (again.tick, again.rows, again.parents) == (2, 100, then.parents)
    assert [channel.e_value for channel in again.channels] == sorted((c.e_value for c in again.channels), reverse=True)


def test_a_change_rings_and_goes_on_ringing_until_somebody_begins_anew(
    look_at: Callable[..., DriftManifest], log: Log, task: Task, database: Database
) -> None:
    look_at(log.add(600))
    rung = look_at(log.add(60, STRANGE))
    assert (rung.status, rung.tick) == ("alarm", 2) and rung.e_value >= rung.limit
    assert "novelty of questions" in rung.headline
    assert look_at(log.add(300)).status == "alarm"
    ticks = ticks_of(database, task.name, rung.parents["drift_reference"])
    assert [tick.alarm for tick in ticks] == [False, True, True]
    ended = log.rows[-1].timestamp
    assert forget(database, task.name, ended) and not forget(database, task.name, ended)
    assert look_at(log.add(100)).status == "gathering"
    anew = look_at(log.add(400))
    assert (anew.status, anew.tick, anew.rows) == ("quiet", 1, 100)
    assert anew.parents != rung.parents


def test_a_new_champion_begins_anew(look_at: Callable[..., DriftManifest], log: Log) -> None:
    since = log.add(600)
    look_at(since)
    other = Champion("ad-two", since)
    assert look_at(log.add(50), other).status == "gathering"
    assert look_at(log.add(500), other).status == "quiet"


def test_a_look_without_new_rows_is_no_tick(look_at: Callable[..., DriftManifest], log: Log) -> None:
    now = log.add(500)
    first, embedder = look_at(now), Meanings()
    second = look_at(now + timedelta(days=1), embedder=embedder)
    assert (second.tick, second.rows, embedder.embedded) == (first.tick, 0, 0)


def test_rows_that_have_not_settled_wait(look_at: Callable[..., DriftManifest], log: Log) -> None:
    settled = log.add(500)
    assert look_at(settled - timedelta(minutes=30)).rows == 70
    assert look_at(settled).rows == 30


@pytest.mark.parametrize("fails_at", ["publish_reference", "keep"])
def test_what_a_killed_look_leaves_is_taken_up(
    look_at: Callable[..., DriftManifest], log: Log, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    now = log.add(500)
    with monkeypatch.context() as patched:
        whole = getattr(monitor, fails_at)

        def killed(*args: Any, **options: Any) -> None:
            if fails_at == "publish_reference":
                whole(*args, **options)
            raise KeyboardInterrupt

        patched.setattr(monitor, fails_at, killed)
        with pytest.raises(KeyboardInterrupt):
            look_at(now)
    found = look_at(now)
    assert (found.status, found.tick, found.rows) == ("quiet", 1, 100)


def test_of_two_looks_at_once_one_counts(
    look_at: Callable[..., DriftManifest], log: Log, task: Task, database: Database
) -> None:
    look_at(log.add(500))
    now, meet = log.add(200), threading.Barrier(2)

    class Slow(Meanings):
        def embed(self, texts: Sequence[str]) -> Vectors:
            meet.wait(30)
            return super().embed(texts)

    told: list[DriftManifest | Exception] = []

    def run() -> None:
        try:
            told.append(look_at(now, embedder=Slow()))
        except TransientError as error:
            told.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(type(one).__name__ for one in told) == ["DriftManifest", "TransientError"]
    found = next(one for one in told if isinstance(one, DriftManifest))
    ticks = ticks_of(database, task.name, found.parents["drift_reference"])
    assert [(tick.number, tick.rows) for tick in ticks] == [(1, 100), (2, 200)]


def test_vectors_of_another_embedder_are_refused(look_at: Callable[..., DriftManifest], log: Log) -> None:
    look_at(log.add(500))
    with pytest.raises(BadInput, match="was made by em-test, this is em-other"):
        look_at(log.add(100), embedder=Meanings("em-other"))
    assert look_at(log.add(100)).rows == 200


def test_of_a_long_tick_some_rows_are_looked_at(
    look_at: Callable[..., DriftManifest], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "MOST_ROWS", 50)
    assert look_at(log.add(700)).rows == 50


def test_the_evidence_comes_back_as_it_was_kept(
    look_at: Callable[..., DriftManifest], log: Log, task: Task, database: Database
) -> None:
    found = look_at(log.add(700))
    known = known_of(database, task.name, CHAMPION)
    assert known.evidence is not None and known.evidence.e_value == found.e_value
    assert {name: channel.e_value for name, channel in known.evidence.channels.items()} == {
        channel.name: channel.e_value for channel in found.channels
    }


def test_of_a_long_log_no_more_is_read_than_the_reference_takes(
    task: Task, log: Log, local_lake: Lake, database: Database
) -> None:
    now, pieces = log.add(4000), list[int]()

    def read(after: datetime, until: datetime) -> Iterator[list[TrafficRow]]:
        for piece in log.read(after, until):
            pieces.append(len(piece))
            yield piece

    known = known_of(database, task.name, CHAMPION)
    begun = monitor._with_reference(task, Traffic(CHAMPION, read, Meanings), known, now, local_lake, lambda line: None)
    assert not isinstance(begun, DriftManifest) and begun.reference_id is not None
    assert 400 <= sum(pieces) <= 400 + max(pieces)
