"""Traffic by the minute, read piece by piece: the same as read at once, whenever one looks."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from finetune_platform.database import Database
from finetune_platform.serving.page.minutes import MinuteTraffic, minute_of
from finetune_platform.serving.page.plots import DAY, HOUR, plots_of
from finetune_platform.serving.tables import TrafficCount
from finetune_platform.serving.traffic import ArmKey, Counts, Told, bucket_of

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = ArmKey("t", "ad-1", "champion")


@pytest.fixture(scope="module")
def small_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path_factory.mktemp('minutes') / 'f.db'}")
    yield opened
    opened.close()


def tell(database: Database, at: datetime, n: int, gateway: str = "g") -> None:
    place = {"gateway": gateway, "task": "t", "adapter_id": "ad-1", "arm": "champion", "bucket": bucket_of(at)}
    with database.session() as session:
        session.merge(TrafficCount(**place, counts=asdict(Counts(n=n))))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spans=st.dictionaries(st.integers(-400, 400), st.integers(1, 9), max_size=30),
    looks=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 60)), min_size=1, max_size=6),
)
def test_read_in_pieces_it_is_the_same(
    small_database: Database, spans: dict[int, int], looks: list[tuple[int, int]]
) -> None:
    with small_database.session() as session:
        session.execute(delete(TrafficCount))
    minutes = MinuteTraffic("t")
    untold = {START + timedelta(seconds=10 * i): n for i, n in spans.items()}
    for after_s, minutes_back in sorted(looks):
        now = START + timedelta(seconds=after_s)
        for at in [at for at in untold if at <= now]:
            tell(small_database, at, untold.pop(at))
        since = minute_of(now - timedelta(minutes=minutes_back))
        with small_database.reading() as session:
            read = minutes.read(session, since, now)
        wanted: dict[datetime, int] = {}
        for i, n in spans.items():
            at = START + timedelta(seconds=10 * i)
            if since <= at <= now:
                wanted[minute_of(at)] = wanted.get(minute_of(at), 0) + n
        assert {row.bucket: row.counts.n for row in read} == wanted


def test_counts_of_all_gateways_add_up(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'f.db'}")
    tell(database, START, 2, "a")
    tell(database, START, 3, "b")
    with database.reading() as session:
        read = MinuteTraffic("t").read(session, START, START + timedelta(minutes=5))
    assert [(row.bucket, row.counts.n) for row in read] == [(START, 5)]
    database.close()


def test_a_plot_shows_rates_of_whole_bins_and_marks_changes() -> None:
    now = START + timedelta(hours=3, seconds=30)
    latency = [0] * 66
    latency[20] = 6
    rows = [Told(now.replace(second=0) - timedelta(minutes=m), KEY, Counts(n=6, latency=latency)) for m in range(100)]
    since = (now - timedelta(minutes=30)).isoformat()
    history = [{"since": since, "arm": "champion", "adapter_id": "ad-1", "share": 1.0}]
    requests, delays = plots_of(rows, history, HOUR, now)
    assert requests.summary == "6 requests a minute on average, at most 6"
    assert len(requests.columns) == 60 and requests.columns[-1]["at"] == now.replace(second=0) - timedelta(minutes=1)
    assert [round(mark["x"]) for mark in requests.marks] == [51]
    assert delays.summary == "champion 320 ms, p95 320 ms"
    day = plots_of(rows, [], DAY, now)[0].columns
    assert day[-1]["at"] == START + timedelta(hours=2, minutes=50), "ten minutes that are under way are left out"
    assert len(day) == 10
    assert plots_of([], history, HOUR, now) == []
