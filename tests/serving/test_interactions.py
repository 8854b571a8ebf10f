"""What the log keeps of an interaction, what it replaces, and what an acknowledgement is worth."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from logged_rows import feedback, interaction, put_in, rows_of

from finetune_platform.lake import Lake
from finetune_platform.serving import stored_rows
from finetune_platform.serving.interaction_log import SHORT_BYTES, InteractionLog
from finetune_platform.serving.interactions import (
    FEEDBACK_SCHEMA,
    INTERACTION_SCHEMA,
    Interaction,
    Sampler,
    feedback_path,
    interactions_path,
)
from finetune_platform.serving.stored_rows import stored, tables_of
from finetune_platform.serving.write_ahead import NotLogged

MAIL, CARD = "jo.doe@example.com", "4111 1111 1111 1111"


def through(row: Any, redact: bool = True) -> dict[str, Any]:
    """The row as the table has it."""
    (table,) = tables_of([json.loads(json.dumps(stored(row, redact)))]).values()
    (found,) = table.to_pylist()
    return found


def test_a_row_of_the_table_has_every_field_and_the_day_in_utc() -> None:
    east = timezone(timedelta(hours=9))
    row = interaction(
        tenant="acme",
        session="s-1",
        timestamp=datetime(2026, 3, 1, 2, tzinfo=east),
        prompt_tokens=7,
        format_valid=False,
        streamed=True,
    )
    found = through(row)
    assert list(found) == [field.name for field in fields(Interaction)] + ["date"]
    assert found["timestamp"] == row.timestamp
    assert str(found["date"]) == "2026-02-28"
    assert json.loads(found["request"]) == row.request
    assert json.loads(found["response"]) == row.response
    same = ("tenant", "session", "prompt_tokens", "completion_tokens", "latency_ms", "error", "format_valid")
    assert {name: found[name] for name in same} == {name: getattr(row, name) for name in same}
    assert (found["streamed"], found["refused"], json.loads(found["redactions"])) == (True, False, {})


def test_the_paths_and_columns_that_readers_rely_on() -> None:
    assert (interactions_path("topics"), feedback_path("topics")) == ("topics/interactions", "topics/feedback")
    assert {"interaction_id", "timestamp", "task", "adapter_id", "arm", "sampled_because"} <= set(
        INTERACTION_SCHEMA.names
    )
    assert {"interaction_id", "rating", "positive", "correction", "accepted", "comment"} <= set(FEEDBACK_SCHEMA.names)


def test_personal_data_are_replaced_wherever_somebody_wrote_them_and_counted() -> None:
    row = interaction(
        request={"messages": [{"role": "user", "content": f"Write to {MAIL}"}], "user": MAIL},
        response={"choices": [{"message": {"content": f"Done, {MAIL}"}}]},
        error=f"upstream: cannot answer 'Write to {MAIL}'",
        session=MAIL,
    )
    found = through(row)
    assert MAIL not in str(found)
    assert sum(json.loads(found["redactions"]).values()) == 5
    said = through(feedback(comment=f"call {MAIL}", correction=f"{MAIL}!"))
    assert MAIL not in str(said)
    kept = through(row, redact=False)
    assert MAIL in kept["request"] and MAIL in kept["response"] and kept["session"] == MAIL
    assert kept["redactions"] is None


def test_sessions_named_by_personal_data_stay_apart() -> None:
    names = [through(interaction(session=name))["session"] for name in (MAIL, MAIL, f"x{MAIL}", "s-1")]
    assert names[0] == names[1] != names[2]
    assert names[3] == "s-1"


@pytest.mark.parametrize("odd", ["\ud800", 2**80, "ä\x00\u2028", [[[]]], {"a": 1e300}])
def test_whatever_json_a_caller_sends_is_kept(odd: Any) -> None:
    found = through(interaction(request={"odd": odd}), redact=False)
    assert json.loads(found["request"]) == {"odd": odd}


def test_text_that_is_not_unicode_is_kept_escaped() -> None:
    assert through(interaction(error="bad \ud800", session="\udfff"))["error"] == "bad \\ud800"


def test_rows_of_other_versions_are_read() -> None:
    record = stored(interaction(), redact=False)
    del record["row"]["gateway"]
    record["row"]["later"] = 1
    (table,) = tables_of([record]).values()
    assert table.schema == INTERACTION_SCHEMA
    assert table["gateway"].to_pylist() == [None]


def test_daft_and_pandas_read_the_days_that_are_asked_for(lake: Lake) -> None:
    import daft

    put_in(lake, *(interaction(n, timestamp=datetime(2026, 3, 1 + n, 12, tzinfo=UTC)) for n in range(3)))
    path, day = interactions_path("topics"), date(2026, 3, 2)
    frame = lake.table(path).to_pandas(filters=[("date", ">=", day)])
    assert sorted(frame["interaction_id"]) == ["in-1", "in-2"]
    if "://" not in lake.url:
        found = daft.read_deltalake(lake.url_of(path)).where(daft.col("date") >= day).to_pydict()
        assert sorted(found["interaction_id"]) == ["in-1", "in-2"]


@hypothesis_settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 10**6), small=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_share_keeps_what_a_smaller_one_kept(number: int, small: float, more: float) -> None:
    small, large = sorted((small, more))
    name = f"in-{number}"
    if Sampler("topics", small).reason(name, "champion") == "share":
        assert Sampler("topics", large).reason(name, "champion") == "share"


def test_the_share_is_what_was_asked_and_errors_canary_and_shadow_are_always_kept() -> None:
    sampler = Sampler("topics", 0.05)
    names = [f"in-{n}" for n in range(20_000)]
    kept = [name for name in names if sampler.reason(name, "champion")]
    assert 0.045 < len(kept) / len(names) < 0.055
    assert kept == [name for name in names if Sampler("topics", 0.05).reason(name, "base")]
    assert Sampler("topics", 0.0).reason("in-1", "champion") is None
    assert Sampler("topics", 1.0).reason("in-1", "tenant") == "share"
    none = Sampler("topics", 0.0)
    assert none.reason("in-1", "canary") == "canary"
    assert none.reason("in-1", "shadow") == "shadow"
    assert none.reason("in-1", "champion", error="upstream away") == "error"


def test_what_is_recorded_from_an_event_loop_is_acknowledged_and_flushed(lake: Lake, tmp_path: Path) -> None:
    log = InteractionLog(tmp_path / "log", lake, flush_every_s=3600)

    async def serve() -> None:
        for n in range(20):
            log.record(interaction(n))
        await asyncio.wrap_future(log.record(interaction(20)))
        await asyncio.wrap_future(log.record(feedback(20)))

    asyncio.run(serve())
    assert log.figures().acknowledged == 22
    assert log.flush_once().failure is None
    assert log.figures()[:4] == (22, 0, 0, 22)
    assert len(rows_of(lake)) == 21
    log.record(interaction(21))
    log.close()
    assert len(rows_of(lake)) == 22
    refused = log.record(interaction(22))
    assert isinstance(refused.exception(), NotLogged)


def test_nothing_personal_is_on_the_disk_at_any_time(local_lake: Lake, tmp_path: Path) -> None:
    log = InteractionLog(tmp_path / "log", local_lake, flush_every_s=3600)
    for n in range(50):
        request = {"messages": [{"role": "user", "content": f"{MAIL} pays with {CARD}"}]}
        log.record(interaction(n, request=request, session=MAIL)).result()
        for file in tmp_path.rglob("*.log"):
            assert MAIL.encode() not in file.read_bytes()
    log.close()
    assert not [row for row in rows_of(local_lake) if MAIL in str(row)]


def test_more_rows_than_may_be_pending_are_refused_at_once_and_serving_goes_on(
    local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    going = threading.Event()

    def slow(value: Any) -> tuple[Any, dict[str, int]]:
        going.wait(10)
        return value, {}

    monkeypatch.setattr(stored_rows, "redact_json", slow)
    log = InteractionLog(tmp_path / "log", local_lake, max_pending=5)
    started = time.monotonic()
    long = {"messages": [{"role": "user", "content": "x" * 2 * SHORT_BYTES}]}
    futures: list[Future[None]] = [log.record(interaction(n, request=long)) for n in range(9)]
    assert time.monotonic() - started < 1
    assert [future.done() for future in futures] == [False] * 5 + [True] * 4
    assert isinstance(futures[-1].exception(), NotLogged)
    going.set()
    for future in futures[:5]:
        future.result()
    assert log.figures()[:2] == (5, 4)
    assert "4 rows of the interactions log are lost so far" in caplog.text
    log.record(interaction(10)).result()
    log.close()
    assert len(rows_of(local_lake)) == 6


def test_a_row_that_cannot_be_made_safe_is_lost_alone_and_never_written_as_it_is(
    local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redact = stored_rows.redact_json

    def broken(value: Any) -> Any:
        if "case 1" in str(value):
            raise KeyError("a bug")
        return redact(value)

    monkeypatch.setattr(stored_rows, "redact_json", broken)
    log = InteractionLog(tmp_path / "log", local_lake)
    futures = [log.record(interaction(n)) for n in range(3)]
    assert [type(future.exception()) for future in futures] == [type(None), KeyError, type(None)]
    log.close()
    assert [row["interaction_id"] for row in rows_of(local_lake)] == ["in-0", "in-2"]


GATEWAY = """
import asyncio, sys
from pathlib import Path
from finetune_platform.lake import Lake
from finetune_platform.serving.interaction_log import InteractionLog
sys.path.insert(0, sys.argv[3])
from logged_rows import interaction

async def serve():
    log = InteractionLog(Path(sys.argv[1]), Lake(sys.argv[2]), flush_every_s=0.05)
    n = 0

    async def one(name):
        await asyncio.wrap_future(log.record(interaction(interaction_id=name)))
        print(name, flush=True)

    print("ready", flush=True)
    while True:
        await asyncio.gather(*(one(f"in-{n + k}") for k in range(10)))
        n += 10

asyncio.run(serve())
"""


def test_rows_acknowledged_to_a_gateway_that_is_killed_are_in_the_table_once(local_lake: Lake, tmp_path: Path) -> None:
    told = tmp_path / "told"
    arguments = [str(tmp_path / "log"), local_lake.url, str(Path(__file__).parent)]
    with told.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", GATEWAY, *arguments], stdout=out)
        end = time.monotonic() + 60
        while b"in-100\n" not in told.read_bytes():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    acknowledged = {line for line in told.read_text().split("\n")[:-1] if line != "ready"}
    InteractionLog(tmp_path / "log", local_lake).close()
    found = [row["interaction_id"] for row in rows_of(local_lake)]
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)


def test_handing_over_is_cheap(local_lake: Lake, tmp_path: Path) -> None:
    """Under 0.2 ms for two kilobytes, at the median; the bound leaves room for a busy machine."""
    log = InteractionLog(tmp_path / "log", local_lake, flush_every_s=3600)
    row = interaction(request={"messages": [{"role": "user", "content": "x " * 1000}]})
    times = []
    for _ in range(200):
        started = time.perf_counter()
        future = log.record(row)
        times.append(time.perf_counter() - started)
        future.result()
    log.close()
    assert sorted(times)[100] < 0.0005
