"""The interactions log as the gateway sees it: hand over a row, go on; a process of its own makes it safe.

A row is *acknowledged* when the future that `record` gave has ended without an error: it is out of this process then,
and the gateway's death at any moment does not lose it. The keeper (`log_keeper.py`) replaces personal data, writes it
to the write-ahead file and moves it to the lake. What the rows are stands in `interactions.py`, which of them are kept
is its `Sampler`'s.
"""

import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

from finetune_platform.lake import Lake
from finetune_platform.serving.interactions import Row
from finetune_platform.serving.log_frames import frame
from finetune_platform.serving.write_ahead import NotLogged
from finetune_platform.storage_errors import disk_failures

MAX_WAITING_BYTES = 64 * 2**20
RESTART_S = 1.0
CLOSE_S = 60.0
REPORT_BYTES = 2**16

log = logging.getLogger(__name__)


class LogFigures(NamedTuple):
    """How the log does: `refused` rows are lost, `waiting_bytes` are safe and not in the lake yet.

    `failure` is why the lake takes none. The keeper tells its part several times a second.
    """

    acknowledged: int = 0
    refused: int = 0
    waiting_bytes: int = 0
    flushed_rows: int = 0
    failure: str | None = None
    flushing: bool = False


@dataclass
class _Waiting:
    """A row that the keeper's socket had no room for, and how much of it is sent."""

    data: bytes
    sent: int
    handed_over: "Future[None]" = field(default_factory=Future)


HANDED_OVER: "Future[None]" = Future()
HANDED_OVER.set_result(None)


class InteractionLog:
    """Hands rows to a keeper, and starts another where one dies.

    Args:
        folder: Of the write-ahead files, on a local disk; the gateways of one machine may share it.
        lake: Where the tables are.
        flush_every_s: How long a row may wait for the lake.
        max_waiting_bytes: What may wait here while the keeper is busy; beyond that rows are refused, serving goes on.

    Raises:
        StorageFailed: The folder cannot be made.
    """

    def __init__(
        self, folder: Path, lake: Lake, *, flush_every_s: float = 10.0, max_waiting_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        with disk_failures(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._arguments = [str(folder), lake.url, str(flush_every_s)]
        self._max_waiting_bytes = max_waiting_bytes
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._sent = self._lost = self._refused_here = 0
        self._before = self._told = LogFigures()
        self._closing = self._idle = self._ever_recorded = False
        self._nudge, self._nudged = socket.socketpair()
        self._start_keeper()
        self._thread = threading.Thread(target=self._run, name="interactions-log", daemon=True)
        self._thread.start()

    def record(self, row: Row, redact: bool = True) -> "Future[None]":
        """Hands a row over: cheap, never blocks, never raises.

        Args:
            row: Kept as it is.
            redact: Whether personal data and secrets are replaced, before anything is written.

        Returns:
            Ends when the row is acknowledged (`asyncio.wrap_future` awaits it), or with `NotLogged` where it is lost.
        """
        data = frame(row, redact)
        with self._lock:
            if self._closing:
                return self._refusal("the interactions log is closed", "start the gateway again")
            self._ever_recorded = True
            sent = 0 if self._waiting else self._send(data)
            if sent == len(data):
                self._sent += 1
                return HANDED_OVER
            # A row that is partly sent must follow whole.
            if not sent and self._waiting_bytes + len(data) > self._max_waiting_bytes:
                problem = f"{self._waiting_bytes:,} bytes wait for the interactions log's process"
                return self._refusal(problem, "log a smaller share, or see in its log what holds it up")
            waiting = _Waiting(data, sent)
            self._waiting.append(waiting)
            self._waiting_bytes += len(data)
        self._nudge.send(b"\0")
        return waiting.handed_over

    @property
    def keeper_pid(self) -> int:
        return self._keeper.pid

    def flush_soon(self) -> None:
        """Has what is acknowledged moved to the lake now, not at its time."""
        with self._lock:
            # A keeper that has not told anything yet may not know the signal, and flushes when it starts anyway.
            if self._told.flushing and self._keeper.poll() is None:
                os.kill(self._keeper.pid, signal.SIGUSR1)

    def figures(self) -> LogFigures:
        """How the log does."""
        with self._lock:
            before, now = self._before, self._told
            return now._replace(
                acknowledged=before.acknowledged + now.acknowledged,
                refused=before.refused + now.refused + self._lost + self._refused_here,
                waiting_bytes=now.waiting_bytes + self._waiting_bytes,
                flushed_rows=before.flushed_rows + now.flushed_rows,
                flushing=now.flushing and self._keeper.poll() is None,
            )

    def close(self) -> None:
        """Hands over what waits; the keeper tries the lake once more, and leaves the rest for the next start."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._idle = not self._ever_recorded
        if self._idle:
            # Nothing was logged. It may have been moving what others left; that is safe to break off.
            self._keeper.kill()
        self._nudge.send(b"\0")
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("the interactions log is still being written by process %d", self._keeper.pid)

    def _send(self, data: bytes | memoryview) -> int:
        """How many bytes the keeper's socket took; none where it is gone: the thread starts another then."""
        try:
            return self._socket.send(data)
        except OSError:
            return 0

    def _refusal(self, problem: str, mend: str) -> "Future[None]":
        self._refused_here += 1
        if self._refused_here & (self._refused_here - 1) == 0:  # The 1st, 2nd, 4th, 8th …: loud, and no flood.
            log.error("%d rows of the interactions log are refused so far; this one: %s", self._refused_here, problem)
        refused: Future[None] = Future()
        refused.set_exception(NotLogged(problem, mend))
        return refused

    def _start_keeper(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        command = [sys.executable, "-m", "finetune_platform.serving.log_keeper", str(theirs.fileno())]
        with theirs:
            self._keeper = subprocess.Popen(
                [*command, *self._arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Ctrl-C in a terminal goes to a whole group: the keeper ends after the gateway, not with it.
                start_new_session=True,
            )
        self._socket = ours

    def _run(self) -> None:
        heard = b""
        leaving = False
        while True:
            with self._lock:
                if self._closing and not self._waiting and not leaving:
                    leaving = True
                    with suppress(OSError):  # It is gone already.
                        self._socket.shutdown(socket.SHUT_WR)
            self._wait()
            self._drain()
            try:
                piece = self._socket.recv(REPORT_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                piece = b""
            *lines, heard = (heard + piece).split(b"\n")
            if lines:
                self._told = LogFigures(**orjson.loads(lines[-1]))
            if piece:
                continue
            ended_well = self._keeper.wait() == 0
            if self._closing and (ended_well or self._idle):
                self._socket.close()
                return
            heard, leaving = b"", False
            self._start_another()

    def _wait(self) -> None:
        """Until the keeper tells something, or takes something that waits."""
        with selectors.DefaultSelector() as ready:
            interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._waiting else 0)
            ready.register(self._socket, interest)
            ready.register(self._nudged, selectors.EVENT_READ)
            if any(key.fileobj is self._nudged for key, _ in ready.select()):
                self._nudged.recv(REPORT_BYTES)

    def _drain(self) -> None:
        done: list[Future[None]] = []
        with self._lock:
            while self._waiting:
                first = self._waiting[0]
                first.sent += self._send(memoryview(first.data)[first.sent :])
                if first.sent < len(first.data):
                    break
                self._waiting.popleft()
                self._waiting_bytes -= len(first.data)
                self._sent += 1
                done.append(first.handed_over)
        for future in done:
            future.set_result(None)

    def _start_another(self) -> None:
        """After a keeper's death. What it had written, the next one takes over; what it had not read is lost."""
        died = self._keeper.returncode
        time.sleep(RESTART_S)
        with self._lock:
            unknown = max(0, self._sent - self._told.acknowledged - self._told.refused)
            self._before = LogFigures(
                self._before.acknowledged + self._told.acknowledged,
                self._before.refused + self._told.refused,
                0,
                self._before.flushed_rows + self._told.flushed_rows,
            )
            self._lost += unknown
            self._sent, self._told = 0, LogFigures()
            if self._waiting:
                self._waiting[0].sent = 0
            self._socket.close()
            self._start_keeper()
        log.error(
            "the interactions log's process died (%s) and is started again; up to %d rows are lost",
            died, unknown,
        )  # fmt: skip
