"""Upkeep deletes what is too old, makes few files of many, and neither loses nor doubles a row."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from logged_rows import feedback, interaction, put_in, rows_of

from finetune_platform.errors import Unreachable
from finetune_platform.lake import Lake
from finetune_platform.serving.retention import READERS_HOURS, table_figures, upkeep

PATH = "topics/interactions"
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def ids(lake: Lake) -> list[str]:
    return [row["interaction_id"] for row in rows_of(lake)]


def test_old_rows_go_others_stay_as_they_are_and_finished_days_become_one_file_each(lake: Lake) -> None:
    # Two days in the middle; one append reaches from one to the other.
    ages = [40, 31, 29, *(2.1 + n / 10 for n in range(8)), 0.1, 0.05]
    rows = [interaction(n, timestamp=days_ago(age)) for n, age in enumerate(ages)]
    for row in rows:
        put_in(lake, row)
    put_in(lake, interaction(90, timestamp=days_ago(2.55)), interaction(91, timestamp=days_ago(2.45)))
    before = rows_of(lake)
    done = upkeep(lake, PATH, retention_days=30, now=NOW)
    assert done is not None
    assert (done.before.rows, done.rows_deleted, done.after.rows) == (15, 2, 13)
    assert done.before.files == 15
    # One of 29 days ago, one each of the two days, two of today, which goes on.
    assert (done.days_compacted, done.after.files) == (2, 5)
    assert rows_of(lake) == [row for row in before if row["timestamp"] >= days_ago(30)]
    assert (done.after.newest, done.after.oldest) == (days_ago(0.05), days_ago(29))
    again = upkeep(lake, PATH, retention_days=30, now=NOW)
    assert again is not None
    assert (again.rows_deleted, again.days_compacted, again.before) == (0, 0, done.after)


def test_upkeep_at_the_same_time_as_another_and_as_appends_loses_and_doubles_nothing(lake: Lake) -> None:
    for n in range(12):
        put_in(lake, interaction(n, timestamp=days_ago(1 + n / 24)))
    put_in(lake, interaction(99, timestamp=days_ago(100)))

    def late(n: int) -> None:
        put_in(lake, interaction(n, timestamp=days_ago(1)))

    with ThreadPoolExecutor(4) as pool:
        appends = [pool.submit(late, n) for n in range(50, 54)]
        for one in [pool.submit(upkeep, lake, PATH, 30, NOW) for _ in range(3)] + appends:
            one.result()
    upkeep(lake, PATH, retention_days=30, now=NOW)
    assert sorted(ids(lake)) == sorted(f"in-{n}" for n in [*range(12), *range(50, 54)])
    figures = table_figures(lake, PATH)
    assert figures is not None
    assert (figures.rows, figures.files) == (16, 1)


@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    commits=st.lists(st.lists(st.integers(0, 5 * 24 * 60), min_size=1, max_size=4), min_size=1, max_size=6),
    kept=st.integers(1, 6),
)
def test_any_table_keeps_exactly_the_rows_that_are_young_enough(
    local_lake: Lake, commits: list[list[int]], kept: int
) -> None:
    """Ages in minutes."""
    local_lake.delete("topics")
    number = 0
    expected = []
    for minutes in commits:
        rows = [interaction(number + n, timestamp=NOW - timedelta(minutes=age)) for n, age in enumerate(minutes)]
        expected += [row.interaction_id for row in rows if row.timestamp >= days_ago(kept)]
        number += len(rows)
        put_in(local_lake, *rows)
    done = upkeep(local_lake, PATH, retention_days=kept, now=NOW)
    assert done is not None
    assert sorted(ids(local_lake)) == sorted(expected)
    assert (done.after.rows, done.rows_deleted) == (len(expected), number - len(expected))


def test_a_reader_that_began_before_goes_on_and_after_a_week_the_bytes_are_gone(local_lake: Lake) -> None:
    put_in(local_lake, interaction(1, timestamp=days_ago(50), error="an old secret"))
    put_in(local_lake, interaction(2, timestamp=days_ago(1)))
    folder = Path(local_lake.url) / PATH
    abandoned, fresh = folder / "part-0-abandoned.parquet", folder / "part-0-fresh.parquet"
    for file in (abandoned, fresh):
        pq.write_table(local_lake.table(PATH).to_pyarrow_table(), file)
    week = READERS_HOURS * 3600
    os.utime(abandoned, times=(time.time() - 1.1 * week,) * 2)
    reader = local_lake.table(PATH)
    done = upkeep(local_lake, PATH, retention_days=30, now=NOW)
    assert done is not None
    assert done.files_removed == 1
    assert not abandoned.exists()
    assert fresh.exists()
    fresh.unlink()
    assert reader.to_pyarrow_table().num_rows == 2
    for commit in (folder / "_delta_log").glob("*.json"):
        # The log's clock, set back by a little more than a week.
        told = re.sub(
            r'"deletionTimestamp":(\d+)', lambda m: f'"deletionTimestamp":{int(m[1]) - 1100 * week}', commit.read_text()
        )
        commit.write_text(told)
    done = upkeep(local_lake, PATH, retention_days=30, now=NOW)
    assert done is not None
    assert done.files_removed == 1
    left = [str(pq.read_table(file).to_pylist()) for file in folder.rglob("*.parquet")]
    assert len(left) == 1
    assert "secret" not in left[0]


def test_a_table_emptied_by_age_is_still_a_table(lake: Lake) -> None:
    put_in(lake, feedback(1, timestamp=days_ago(50)))
    done = upkeep(lake, "topics/feedback", retention_days=30, now=NOW)
    assert done is not None
    assert (done.after.rows, done.after.files, done.after.newest) == (0, 0, None)
    put_in(lake, feedback(2, timestamp=days_ago(1)))
    assert len(rows_of(lake, "topics/feedback")) == 1


def test_where_nothing_was_logged_there_is_nothing_to_do(lake: Lake) -> None:
    assert upkeep(lake, PATH, retention_days=30) is None
    assert table_figures(lake, PATH) is None
    assert lake.list() == []


def test_a_lake_that_is_away_is_told(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Unreachable, match="does not answer"):
        upkeep(Lake(s3_url), PATH, retention_days=30)
