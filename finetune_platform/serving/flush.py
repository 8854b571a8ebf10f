"""From the write-ahead files to the Delta tables: one commit a file and table, each exactly once.

A commit carries the file's writer and number, so a file that is flushed again, after a crash between commit and
deletion or by two at the same time, writes nothing twice. While the lake is away the files wait.
"""

import logging
import random
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from finetune_platform.errors import FinetuneError, PermanentError, TransientError
from finetune_platform.lake import Lake, Once
from finetune_platform.serving.interactions import DAY
from finetune_platform.serving.segments import Segment
from finetune_platform.serving.stored_rows import tables_of
from finetune_platform.serving.write_ahead import WriteAhead

MAX_PAUSE_S = 60.0
"""The longest pause between attempts while the lake is away."""

log = logging.getLogger(__name__)


class Flushed(NamedTuple):
    """What one pass did: rows written, files done with, and why files are left, if any are."""

    rows: int = 0
    files: int = 0
    failure: FinetuneError | None = None

    def and_then(self, later: "Flushed") -> "Flushed":
        """Both passes as one."""
        return Flushed(self.rows + later.rows, self.files + later.files, self.failure or later.failure)


def flush(files: WriteAhead, lake: Lake) -> Flushed:
    """Moves every closed file to the lake, a writer's files in their order, and removes it.

    A table that refuses its rows keeps the files that hold some of them waiting while other tables go on; a lake that
    is away ends the pass.
    """
    done = Flushed()
    stuck: dict[tuple[str, str], FinetuneError] = {}
    for segment in files.closed():
        try:
            moved = _move(segment, files.read(segment), lake, stuck)
        except TransientError as error:
            return done.and_then(Flushed(failure=error))
        if moved.failure is None:
            files.remove(segment)
        done = done.and_then(moved)
    return done


def _move(
    segment: Segment,
    records: Iterable[Mapping[str, Any]],
    lake: Lake,
    stuck: dict[tuple[str, str], FinetuneError],
) -> Flushed:
    """Writes one file's records; `stuck` are tables that refused an earlier file of the same writer."""
    rows, failure = 0, None
    for path, table in tables_of(records).items():
        place = (segment.writer, path)
        # Out of order it would be lost: a later number in the table says that the earlier ones are there.
        if place not in stuck:
            try:
                once = Once(f"gateway-{segment.writer}", segment.number)
                written = lake.append(path, table, once, partition_by=DAY)
                rows += table.num_rows if written else 0
            except PermanentError as error:
                stuck[place] = error
        failure = failure or stuck.get(place)
    return Flushed(rows, int(failure is None), failure)


class Flusher:
    """Flushes in a thread of its own: what was appended is in the lake `every_s` seconds later, or when a file is full.

    Args:
        every_s: The pause between passes. While the lake fails it doubles, up to `MAX_PAUSE_S`.
    """

    def __init__(self, files: WriteAhead, lake: Lake, every_s: float = 10.0) -> None:
        self._files = files
        self._lake = lake
        self._every_s = every_s
        self._one_at_a_time = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="interactions-flush", daemon=True)
        self.rows = 0
        """Rows written to the lake so far."""
        self.failures = 0
        """Failed passes since the last one that left nothing."""
        self.failure: FinetuneError | None = None
        """What the last pass failed of."""
        self.flushed_at: datetime | None = None
        """When a pass last left nothing."""

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def soon(self) -> None:
        """The next pass need not wait for its time."""
        self._files.segment_closed.set()

    def stop(self) -> None:
        """Ends after the pass under way."""
        self._stopping.set()
        self._files.segment_closed.set()
        if self.alive:
            self._thread.join()

    def flush_once(self) -> Flushed:
        """One pass over everything appended so far, files of processes that have died included."""
        with self._one_at_a_time:
            self._files.adopt()
            done = flush(self._files, self._lake)
            if done.failure is None:
                # While the lake is away the file in use grows on: many small files would be many small commits.
                self._files.rotate()
                done = done.and_then(flush(self._files, self._lake))
            self._note(done)
        return done

    def _note(self, done: Flushed) -> None:
        self.rows += done.rows
        if done.failure is not None:
            level = logging.ERROR if self.failure is None else logging.DEBUG
            log.log(level, "the interactions log waits in %s: %s", self._files.root, done.failure)
            self.failures += 1
        else:
            if self.failure is not None:
                log.info("the interactions log is in the lake again")
            self.failures, self.flushed_at = 0, datetime.now(UTC)
        self.failure = done.failure

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.flush_once()
            if self.failures:
                pause = min(self._every_s * 2 ** min(self.failures, 10), MAX_PAUSE_S)
                self._stopping.wait(pause * random.uniform(0.5, 1))
            else:
                self._files.segment_closed.wait(self._every_s)
                self._files.segment_closed.clear()
