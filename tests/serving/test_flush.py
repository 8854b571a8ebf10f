"""From the write-ahead files every row reaches the lake, and reaches it once, whatever fails on the way."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from logged_rows import feedback, interaction, rows_of
from s3_server import BUCKET, start_s3

from finetune_platform.errors import BadInput, Unreachable
from finetune_platform.lake import Lake, Once
from finetune_platform.serving.flush import Flusher, flush
from finetune_platform.serving.stored_rows import stored
from finetune_platform.serving.write_ahead import WriteAhead


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "log"


def ids(lake: Lake, path: str = "topics/interactions") -> list[str]:
    return [row["interaction_id"] for row in rows_of(lake, path)]


def append(files: WriteAhead, *numbers: int, make: Callable[..., Any] = interaction, **changes: Any) -> None:
    for number in numbers:
        files.append(stored(make(number, **changes), redact=False))


def test_rows_reach_the_table_of_their_task_and_kind_and_the_files_go(lake: Lake, root: Path) -> None:
    files = WriteAhead(root, segment_bytes=2000)
    append(files, *range(8))
    append(files, 8, task="entities")
    append(files, 1, make=feedback, comment="wrong topic")
    files.rotate()
    count = len(files.closed())
    done = flush(files, lake)
    assert count > 2
    assert done == (10, count, None)
    assert ids(lake) == [f"in-{n}" for n in range(8)]
    assert ids(lake, "entities/interactions") == ["in-8"]
    assert [row["comment"] for row in rows_of(lake, "topics/feedback")] == ["wrong topic"]
    assert lake.table("topics/interactions").metadata().partition_columns == ["date"]
    assert (files.closed(), files.waiting_bytes) == ([], 0)
    assert flush(files, lake) == (0, 0, None)
    files.close()


class Death(Exception):
    """Stands for the end of the process."""


class DyingLake(Lake):
    """Ends the process right after a commit."""

    dying = False

    def append(self, path: str, table: pa.Table, once: Once | None = None, partition_by: str | None = None) -> bool:
        written = super().append(path, table, once, partition_by)
        if self.dying:
            raise Death
        return written


def test_a_process_that_dies_between_commit_and_deletion_doubles_nothing(lake: Lake, root: Path) -> None:
    dying = DyingLake(lake.url)
    dying.dying = True
    files = WriteAhead(root)
    for n in range(3):
        append(files, 2 * n, 2 * n + 1)
        append(files, n, make=feedback)
        files.rotate()
    for _ in range(3):
        with pytest.raises(Death):
            flush(files, dying)
        files.close()
        files = WriteAhead(root)
    assert len(ids(lake)) == 2
    assert flush(files, lake).failure is None
    assert ids(lake) == [f"in-{n}" for n in range(6)]
    assert ids(lake, "topics/feedback") == [f"in-{n}" for n in range(3)]
    files.close()


def test_a_table_that_refuses_its_rows_keeps_them_waiting_and_in_order_while_others_go_on(
    local_lake: Lake, root: Path
) -> None:
    local_lake.append("topics/interactions", pa.table({"another": [1]}))
    files = WriteAhead(root)
    for n in range(3):
        append(files, n)
        append(files, n, task="entities")
        files.rotate()
    done = flush(files, local_lake)
    assert isinstance(done.failure, BadInput)
    assert "topics/interactions" in str(done.failure)
    assert (done.files, len(files.closed())) == (0, 3)
    assert len(ids(local_lake, "entities/interactions")) == 3
    local_lake.delete("topics")
    assert flush(files, local_lake) == (3, 3, None)
    assert len(ids(local_lake)) == len(ids(local_lake, "entities/interactions")) == 3
    files.close()


class PickyLake(Lake):
    """Refuses the first append to the table of interactions."""

    refused = False

    def append(self, path: str, table: pa.Table, once: Once | None = None, partition_by: str | None = None) -> bool:
        if path == "topics/interactions" and not self.refused:
            self.refused = True
            raise BadInput(f"{path}: refused", "try again")
        return super().append(path, table, once, partition_by)


def test_rows_that_were_refused_once_are_not_taken_for_written_when_later_ones_come(tmp_path: Path, root: Path) -> None:
    lake = PickyLake(str(tmp_path / "lake"))
    files = WriteAhead(root)
    for n in range(3):
        append(files, n)
        files.rotate()
    assert isinstance(flush(files, lake).failure, BadInput)
    assert flush(files, lake).failure is None
    assert ids(lake) == ["in-0", "in-1", "in-2"]
    files.close()


def test_a_running_gateway_flushes_what_a_dead_neighbour_left(local_lake: Lake, root: Path) -> None:
    files, neighbour = WriteAhead(root), WriteAhead(root)
    flusher = Flusher(files, local_lake)
    append(neighbour, 1)
    assert flusher.flush_once().rows == 0
    neighbour.close()
    assert flusher.flush_once().rows == 1
    assert ids(local_lake) == ["in-1"]
    files.close()


def test_a_lake_that_is_away_leaves_everything_waiting_and_is_drained_when_it_is_back(
    s3_url: str, root: Path, monkeypatch: pytest.MonkeyPatch, s3_server: Any
) -> None:
    lake = Lake(s3_url)
    files = WriteAhead(root, segment_bytes=2000)
    flusher = Flusher(files, lake, every_s=0.1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    append(files, *range(10))
    started = time.monotonic()
    done = flusher.flush_once()
    assert isinstance(done.failure, Unreachable)
    assert time.monotonic() - started < 15
    append(files, *range(10, 12))
    assert (flusher.failures, flusher.rows, len(ids_waiting(files))) == (1, 0, 12)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    assert flusher.flush_once().failure is None
    assert (flusher.failures, flusher.rows, flusher.failure) == (0, 12, None)
    assert len(ids(lake)) == 12
    files.close()


def ids_waiting(files: WriteAhead) -> list[str]:
    """Everything on the disk, the file in use included."""
    from finetune_platform.serving.segments import decode

    found = [decode(path.read_bytes())[0] for path in sorted(files.root.glob("*/*.log"))]
    return [record["row"]["interaction_id"] for records in found for record in records]


def test_the_thread_flushes_by_time_and_by_size_and_comes_back_after_an_outage(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An S3 server of its own, stopped and started again on the same data."""
    folder = tmp_path / "s3"
    folder.mkdir()
    server = start_s3(folder)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    lake = Lake(f"s3://{BUCKET}/outage")
    files = WriteAhead(root, segment_bytes=2000)
    flusher = Flusher(files, lake, every_s=0.2)
    try:
        append(files, 0)
        flusher.start()
        until(lambda: flusher.rows == 1, flusher)
        server.stop()
        append(files, *range(1, 20))
        until(lambda: flusher.failures > 0, flusher)
        assert flusher.alive
        server = start_s3(folder)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        until(lambda: flusher.rows == 20, flusher)
        assert sorted(ids(lake)) == sorted(f"in-{n}" for n in range(20))
        flusher.stop()
        assert not flusher.alive
    finally:
        server.stop()
    slow = Flusher(files, Lake(str(tmp_path / "lake")), every_s=3600)
    slow.start()
    until(lambda: slow.flushed_at is not None, slow)
    append(files, *range(20, 30))
    until(lambda: slow.rows == 10, slow)
    slow.stop()
    files.close()


def until(reached: Callable[[], bool], flusher: Flusher, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end, (flusher.rows, flusher.failures, flusher.failure)
        time.sleep(0.02)


LOGGER = """
import sys, time
from pathlib import Path
from finetune_platform.lake import Lake
from finetune_platform.serving.flush import Flusher
from finetune_platform.serving.write_ahead import WriteAhead
sys.path.insert(0, sys.argv[4])
from logged_rows import interaction
from finetune_platform.serving.stored_rows import stored

files = WriteAhead(Path(sys.argv[1]), segment_bytes=20_000)
Flusher(files, Lake(sys.argv[2]), every_s=0.02).start()
print("ready", flush=True)
n = 0
while True:
    name = f"{sys.argv[3]}-{n}"
    files.append(stored(interaction(interaction_id=name), redact=False))
    sys.stdout.write(name + "\\n")
    sys.stdout.flush()
    time.sleep(0.002)
    n += 1
"""


def killed_while_logging(root: Path, lake: Lake, name: str, told: Path, after_s: float) -> list[str]:
    """Runs a logging and flushing process, kills it, and gives the ids that it had acknowledged."""
    arguments = [str(root), lake.url, name, str(Path(__file__).parent)]
    with told.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", LOGGER, *arguments], stdout=out)
        end = time.monotonic() + 60
        while b"ready" not in told.read_bytes():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return [line for line in told.read_text().split("\n")[:-1] if line != "ready"]


def kill_and_check(lake: Lake, root: Path, tmp_path: Path, rounds: int, longest_s: float) -> None:
    acknowledged: list[str] = []
    for number in range(rounds):
        told = tmp_path / f"told-{number}"
        acknowledged += killed_while_logging(root, lake, f"r{number}", told, random.uniform(0.1, longest_s))
    successor = WriteAhead(root)
    assert flush(successor, lake).failure is None
    successor.close()
    found = ids(lake)
    assert len(acknowledged) > rounds  # It was killed at work, also on a busy machine.
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert [path.name for path in root.iterdir() if path.name != "torn"] == []


def test_a_gateway_killed_at_random_leaves_every_acknowledged_row_in_the_table_once(
    lake: Lake, root: Path, tmp_path: Path
) -> None:
    kill_and_check(lake, root, tmp_path, rounds=3, longest_s=0.6)


@pytest.mark.slow
def test_twenty_gateways_killed_at_random_leave_every_acknowledged_row_in_the_table_once(
    lake: Lake, root: Path, tmp_path: Path
) -> None:
    kill_and_check(lake, root, tmp_path, rounds=20, longest_s=1.0)


def test_any_interleaving_of_appends_flushes_failures_and_deaths_keeps_every_row_once(tmp_path: Path) -> None:
    class Log(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.place = tmp_path / f"run-{time.monotonic_ns()}"
            self.lake = DyingLake(str(self.place / "lake"))
            self.blocked = Lake(str(self.place / "blocked" / "lake"))
            (self.place).mkdir()
            (self.place / "blocked").write_text("not a folder")
            self.files = WriteAhead(self.place / "log", segment_bytes=3000, sync_every_s=60)
            self.neighbours: list[WriteAhead] = []
            self.appended = 0

        @rule(count=st.integers(1, 6))
        def append(self, count: int) -> None:
            append(self.files, *range(self.appended, self.appended + count))
            self.appended += count

        @rule()
        def rotate(self) -> None:
            self.files.rotate()

        @rule()
        def flush(self) -> None:
            assert flush(self.files, self.lake).failure is None

        @rule()
        def flush_while_the_lake_is_away(self) -> None:
            flush(self.files, self.blocked)

        @rule(torn=st.booleans())
        def die_in_a_flush(self, torn: bool) -> None:
            self.lake.dying = True
            with suppress(Death):
                flush(self.files, self.lake)
            self.lake.dying = False
            self.die(torn)

        @rule(torn=st.booleans())
        def die(self, torn: bool) -> None:
            folder = self.files.folder
            self.files.close()
            if torn and (left := sorted(folder.glob("*.log"))):
                left[-1].write_bytes(left[-1].read_bytes() + b"0123abcd {")
            self.files = WriteAhead(self.place / "log", segment_bytes=3000, sync_every_s=60)

        @rule()
        def a_neighbour_flushes(self) -> None:
            neighbour = WriteAhead(self.place / "log", sync_every_s=60)
            flush(neighbour, self.lake)
            neighbour.close()

        @invariant()
        def no_row_is_doubled(self) -> None:
            found = ids(self.lake)
            assert len(found) == len(set(found))

        def teardown(self) -> None:
            self.files.close()
            last = WriteAhead(self.place / "log", sync_every_s=60)
            assert flush(last, self.lake).failure is None
            last.close()
            assert sorted(ids(self.lake)) == sorted(f"in-{n}" for n in range(self.appended))

    run_state_machine_as_test(
        Log,
        settings=hypothesis_settings(
            max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
