"""What the interactions log's acknowledgement is worth: whoever dies, what was acknowledged is in the table, once."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from logged_rows import feedback, interaction, rows_of

from finetune_platform.lake import Lake
from finetune_platform.serving import stored_rows
from finetune_platform.serving.interaction_log import InteractionLog
from finetune_platform.serving.log_frames import Frames, frame
from finetune_platform.serving.log_keeper import Keeper
from finetune_platform.serving.write_ahead import NotLogged

MAIL, CARD = "jo.doe@example.com", "4111 1111 1111 1111"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


def ids_in(lake: Lake) -> list[str]:
    return [row["interaction_id"] for row in rows_of(lake)]


@hypothesis_settings(max_examples=60, deadline=None)
@given(requests=st.lists(JSON, max_size=4), cut=st.integers(1, 300), redact=st.booleans())
def test_rows_arrive_as_they_were_sent_in_pieces_of_any_size(requests: list[Any], cut: int, redact: bool) -> None:
    rows = [interaction(n, request=request, session="\ud800") for n, request in enumerate(requests)]
    sent = b"".join(frame(row, redact) for row in [*rows, feedback(9)])
    frames = Frames()
    found = [row for start in range(0, len(sent), cut) for row in frames.feed(sent[start : start + cut])]
    assert found[:-1] == [(row, redact) for row in rows]
    assert found[-1][0].interaction_id == "in-9"


def test_what_is_recorded_from_an_event_loop_is_acknowledged_and_flushed(lake: Lake, tmp_path: Path) -> None:
    log = InteractionLog(tmp_path / "log", lake, flush_every_s=0.2)

    async def serve() -> None:
        for n in range(20):
            log.record(interaction(n))
        await asyncio.wrap_future(log.record(interaction(20)))
        await asyncio.wrap_future(log.record(feedback(20)))

    asyncio.run(serve())
    until(lambda: log.figures()[:4] == (22, 0, 0, 22))
    assert log.figures().flushing
    assert len(rows_of(lake)) == 21
    log.record(interaction(21))
    log.close()
    assert len(rows_of(lake)) == 22
    assert isinstance(log.record(interaction(22)).exception(), NotLogged)


def test_nothing_personal_is_on_the_disk_at_any_time(local_lake: Lake, tmp_path: Path) -> None:
    log = InteractionLog(tmp_path / "log", local_lake, flush_every_s=3600)
    for n in range(50):
        request = {"messages": [{"role": "user", "content": f"{MAIL} pays with {CARD}"}]}
        log.record(interaction(n, request=request, session=MAIL)).result()
        for file in tmp_path.rglob("*.log"):
            assert MAIL.encode() not in file.read_bytes()
    log.close()
    assert len(rows_of(local_lake)) == 50
    assert not [row for row in rows_of(local_lake) if MAIL in str(row)]


def test_serving_goes_on_while_the_keeper_hangs_and_what_waited_is_kept(
    local_lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = InteractionLog(tmp_path / "log", local_lake, max_waiting_bytes=500_000)
    log.record(interaction(0)).result()
    until(lambda: log.figures().acknowledged == 1)
    os.kill(log.keeper_pid, signal.SIGSTOP)
    started = time.monotonic()
    long = {"messages": [{"role": "user", "content": "x " * 50_000}]}
    futures = [log.record(interaction(n, request=long)) for n in range(1, 15)]
    assert time.monotonic() - started < 1
    refused = [future for future in futures if future.done() and future.exception() is not None]
    assert refused and all(isinstance(future.exception(), NotLogged) for future in refused)
    assert "rows of the interactions log are refused" in caplog.text
    os.kill(log.keeper_pid, signal.SIGCONT)
    kept = [future for future in futures if future not in refused]
    for future in kept:
        future.result(30)
    log.close()
    assert len(ids_in(local_lake)) == len(set(ids_in(local_lake))) == 1 + len(kept)
    assert log.figures().refused == len(refused)


def test_a_keeper_that_dies_is_replaced_and_what_it_had_is_kept(
    local_lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = InteractionLog(tmp_path / "log", local_lake)
    for n in range(20):
        log.record(interaction(n)).result()
    until(lambda: log.figures().acknowledged == 20)
    killed = log.keeper_pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: log.keeper_pid != killed)
    for n in range(20, 40):
        log.record(interaction(n)).result(30)
    log.close()
    assert sorted(ids_in(local_lake)) == sorted(f"in-{n}" for n in range(40))
    assert (log.figures().acknowledged, log.figures().refused) == (40, 0)
    assert "died (-9) and is started again" in caplog.text


def test_rows_that_a_dying_keeper_had_not_read_are_counted_as_lost(local_lake: Lake, tmp_path: Path) -> None:
    log = InteractionLog(tmp_path / "log", local_lake)
    log.record(interaction(0)).result()
    until(lambda: log.figures().acknowledged == 1)
    os.kill(log.keeper_pid, signal.SIGSTOP)
    for n in range(1, 6):
        log.record(interaction(n)).result()
    os.kill(log.keeper_pid, signal.SIGKILL)
    log.close()
    assert ids_in(local_lake) == ["in-0"]
    assert (log.figures().acknowledged, log.figures().refused) == (1, 5)


def test_a_row_that_cannot_be_made_safe_is_lost_alone_and_never_written_as_it_is(
    local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    redact = stored_rows.redact_json

    def broken(value: Any) -> Any:
        if "case 1" in str(value):
            raise KeyError("a bug")
        return redact(value)

    monkeypatch.setattr(stored_rows, "redact_json", broken)
    keeper = Keeper(tmp_path / "log", local_lake)
    errors = [keeper.keep(interaction(n)) for n in range(3)]
    assert [type(error) for error in errors] == [type(None), KeyError, type(None)]
    keeper.close()
    assert ids_in(local_lake) == ["in-0", "in-2"]
    assert "1 rows of the interactions log are lost so far" in caplog.text


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
        until(lambda: process.poll() is None and b"in-100\n" in told.read_bytes(), 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    acknowledged = {line for line in told.read_text().split("\n")[:-1] if line != "ready"}
    until(lambda: acknowledged <= set(ids_in(local_lake)))
    assert len(ids_in(local_lake)) == len(set(ids_in(local_lake)))


def test_handing_over_is_cheap(local_lake: Lake, tmp_path: Path) -> None:
    """Tens of microseconds for two kilobytes, at the median; the bound leaves room for a busy machine."""
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
