"""The interactions log as the gateway sees it: hand over a row, go on; it is made safe behind your back.

A row is *acknowledged* when the future that `record` gave has ended without an error: personal data are replaced and
the row is in the write-ahead file, where a death of this process does not lose it. What the rows are stands in
`interactions.py`, which of them are kept is its `Sampler`'s.
"""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import orjson

from finetune_platform.errors import FinetuneError
from finetune_platform.lake import Lake
from finetune_platform.serving.flush import Flushed, Flusher
from finetune_platform.serving.interactions import Interaction, Row
from finetune_platform.serving.stored_rows import stored
from finetune_platform.serving.write_ahead import NotLogged, WriteAhead

SHORT_BYTES = 16 * 2**10
"""Rows up to this are written where they are handed over: that takes a fraction of a millisecond, as waking a thread
does, and no thread fights the event loop for the interpreter meanwhile."""

log = logging.getLogger(__name__)


class LogFigures(NamedTuple):
    """How the log does: `refused` rows are lost, `waiting_bytes` are safe and not in the lake yet."""

    acknowledged: int
    refused: int
    waiting_bytes: int
    flushed_rows: int
    failure: FinetuneError | None
    flushing: bool


class InteractionLog:
    """Takes rows from the event loop, makes them safe (long ones in a thread), moves them to the lake in another.

    Args:
        folder: Of the write-ahead files, on a local disk; the gateways of one machine may share it.
        lake: Where the tables are.
        flush_every_s: How long a row may wait for the lake.
        max_pending: Rows handed over and not yet safe; beyond that rows are refused, serving never waits.
        max_bytes: What may wait on the disk.

    Raises:
        StorageFailed: The folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        lake: Lake,
        *,
        flush_every_s: float = 10.0,
        max_pending: int = 2000,
        max_bytes: int = 2**30,
    ) -> None:
        self._files = WriteAhead(folder, max_bytes=max_bytes)
        self._flusher = Flusher(self._files, lake, flush_every_s)
        self._flusher.start()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="interactions-log")
        self._places = threading.BoundedSemaphore(max_pending)
        self._max_pending = max_pending
        self._counting = threading.Lock()
        self._acknowledged = self._refused = 0

    def record(self, row: Row, redact: bool = True) -> "Future[None]":
        """Hands a row over: cheap, never raises.

        Args:
            row: Kept as it is; nobody changes its request and response afterwards.
            redact: Whether personal data and secrets are replaced, before anything is written.

        Returns:
            Ends when the row is acknowledged (`asyncio.wrap_future` awaits it), or with `NotLogged` where it is lost.
        """
        if _is_short(row):
            return self._written_now(row, redact)
        if not self._places.acquire(blocking=False):
            return self._refusal(f"{self._max_pending} rows wait to be written", "log a smaller share, or add gateways")
        try:
            pending = self._writing.submit(self._write, row, redact)
        except RuntimeError:
            return self._refusal("the interactions log is closed", "start the gateway again")
        pending.add_done_callback(self._count)
        return pending

    def flush_once(self) -> Flushed:
        """Moves what is acknowledged to the lake now."""
        return self._flusher.flush_once()

    def figures(self) -> LogFigures:
        """How the log does."""
        return LogFigures(
            acknowledged=self._acknowledged,
            refused=self._refused,
            waiting_bytes=self._files.waiting_bytes,
            flushed_rows=self._flusher.rows,
            failure=self._flusher.failure,
            flushing=self._flusher.alive,
        )

    def close(self) -> None:
        """Writes what was handed over and tries the lake once more; what it does not take waits for the next start."""
        self._writing.shutdown()
        self._flusher.stop()
        self._flusher.flush_once()
        self._files.close()

    def _refusal(self, problem: str, mend: str) -> "Future[None]":
        refused: Future[None] = Future()
        refused.set_exception(NotLogged(problem, mend))
        self._count(refused)
        return refused

    def _written_now(self, row: Row, redact: bool) -> "Future[None]":
        written: Future[None] = Future()
        try:
            self._files.append(stored(row, redact))
        except Exception as error:  # noqa: BLE001 - as in a thread: the row is lost, the answer is not
            written.set_exception(error)
        else:
            written.set_result(None)
        self._count(written)
        return written

    def _write(self, row: Row, redact: bool) -> None:
        try:
            self._files.append(stored(row, redact))
        finally:
            self._places.release()

    def _count(self, ended: "Future[None]") -> None:
        error = ended.exception()
        with self._counting:
            self._acknowledged += error is None
            self._refused += error is not None
            lost = self._refused
        if error is not None and lost & (lost - 1) == 0:  # The 1st, 2nd, 4th, 8th …: loud, and no flood.
            log.error("%d rows of the interactions log are lost so far; this one: %s", lost, error)


def _is_short(row: Row) -> bool:
    """Whether a row has little text in it."""
    if not isinstance(row, Interaction):
        return True
    try:
        return len(orjson.dumps((row.request, row.response))) <= SHORT_BYTES
    except TypeError:
        return False
