"""The local write-ahead files: what one process appends survives its death at any moment.

When `append` has returned, the record is the kernel's: a killed process loses nothing. A crash of the machine loses
what was appended in its last `sync_every_s` seconds. Each process has a folder of its own, held by a lock; a process
that starts takes over the folders of those that died. Moving records on to the lake belongs in `flush.py`.
"""

import logging
import os
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from finetune_platform.errors import StorageFailed
from finetune_platform.serving.segments import Segment, decode, encode, segments_in
from finetune_platform.storage_errors import disk_failure, disk_failures

TORN_FOLDER = "torn"
"""Beside the processes' folders: lines that are no records, for a person to look at."""

log = logging.getLogger(__name__)


class NotLogged(StorageFailed):
    """A record was not taken; whoever it tells of goes on without."""


class WriteAhead:
    """One process's write-ahead files below a folder that the processes of one machine share. Thread-safe.

    Args:
        root: On a local disk; made on first use. Only its owner may read it.
        segment_bytes: A file that would grow larger is closed and the next begun.
        sync_every_s: How often a thread of its own sends what was appended from the kernel to the disk.
        max_bytes: What may wait here for the lake, files of dead processes included.

    Raises:
        StorageFailed: The folder cannot be made.
    """

    def __init__(
        self,
        root: Path,
        *,
        segment_bytes: int = 4 * 2**20,
        sync_every_s: float = 0.2,
        max_bytes: int = 2**30,
    ) -> None:
        self.root = root
        self.segment_closed = threading.Event()
        """Set whenever a file was closed for its size."""
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._closed: dict[Segment, int] = {}
        self._file: int | None = None
        self._retired: list[int] = []
        self._number = self._size = 0
        self._unsynced = self._broken_off = False
        with disk_failures(root):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder = root / uuid.uuid4().hex
            # The lock first: a folder whose lock is free is taken over by anybody.
            self._held = {self.folder: _hold(self.folder)}
            self.folder.mkdir(mode=0o700)
        self.adopt()
        self._stopping = threading.Event()
        self._syncing = threading.Thread(target=self._sync_often, args=(sync_every_s,), name="write-ahead", daemon=True)
        self._syncing.start()

    @property
    def waiting_bytes(self) -> int:
        """What waits here for the lake."""
        with self._lock:
            return self._waiting()

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a record; once this returns, a death of the process does not lose it.

        Raises:
            NotLogged: The disk is full or fails, more than `max_bytes` wait, or the log is closed.
        """
        line = encode(record)
        with self._lock:
            if self._stopping.is_set():
                raise NotLogged(f"{self.folder}: the log is closed", "start the gateway again")
            if (waiting := self._waiting()) + len(line) > self._max_bytes:
                raise NotLogged(
                    f"{self.root}: {waiting:,} bytes wait for the lake, and no more may",
                    "see why the lake takes none (the gateway's log tells), or let more wait",
                )
            try:
                self._write(line)
            except OSError as error:
                failure = disk_failure(self.folder, error)
                raise NotLogged(failure.problem, failure.mend) from error

    def rotate(self) -> None:
        """Closes the file in use, if it holds anything; the next record begins another."""
        with self._lock:
            self._retire()

    def closed(self) -> list[Segment]:
        """Files that nobody writes any more, each process's in the order they were written."""
        with self._lock:
            return sorted(self._closed)

    def read(self, segment: Segment) -> list[dict[str, Any]]:
        """The records of a closed file; lines that are none are set aside and told of once.

        Raises:
            StorageFailed: It cannot be read.
        """
        with disk_failures(segment.path):
            records, torn = decode(segment.path.read_bytes())
            aside = self.root / TORN_FOLDER / f"{segment.writer}-{segment.path.name}"
            if torn and not aside.exists():
                aside.parent.mkdir(exist_ok=True, mode=0o700)
                aside.write_bytes(b"\n".join(torn))
                log.warning("%s: %d broken lines set aside in %s", segment.path, len(torn), aside)
        return records

    def remove(self, segment: Segment) -> None:
        """Forgets a closed file whose records are safe elsewhere, and the folder of a dead process with its last."""
        with disk_failures(segment.path):
            segment.path.unlink(missing_ok=True)
        with self._lock:
            self._closed.pop(segment, None)
            folder = segment.path.parent
            if folder != self.folder and not any(left.path.parent == folder for left in self._closed):
                self._let_go(folder)

    def adopt(self) -> int:
        """Takes over the files of processes that are dead; how many files."""
        found = 0
        with self._lock, disk_failures(self.root):
            for folder in sorted(self.root.iterdir()):
                if folder in self._held or folder.name == TORN_FOLDER or not folder.is_dir():
                    continue
                with suppress(Timeout):
                    self._held[folder] = _hold(folder)
                    segments = {segment: segment.path.stat().st_size for segment in segments_in(folder)}
                    self._closed.update(segments)
                    found += len(segments)
                    if not segments:
                        self._let_go(folder)
        return found

    def close(self) -> None:
        """Ends appending and brings everything to the disk; what still waits is taken over by the next process."""
        self._stopping.set()
        self._syncing.join()
        with self._lock:
            self._retire()
        self._sync()
        with self._lock:
            for folder in list(self._held):
                self._let_go(folder)

    def _waiting(self) -> int:
        return self._size + sum(self._closed.values())

    def _write(self, line: bytes) -> None:
        if self._size and self._size + len(line) > self._segment_bytes:
            self._retire()
            self.segment_closed.set()
        if self._file is None:
            path = Segment.of(self.folder, self._number + 1).path
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._number += 1
        # What a failed write left of a line must not swallow this one.
        rest = memoryview(b"\n" + line if self._broken_off else line)
        self._unsynced = self._broken_off = True
        while rest:
            written = os.write(self._file, rest)
            self._size += written
            rest = rest[written:]
        self._broken_off = False

    def _retire(self) -> None:
        if self._file is not None:
            self._closed[Segment.of(self.folder, self._number)] = self._size
            self._retired.append(self._file)
        self._file, self._size, self._broken_off = None, 0, False

    def _sync_often(self, every_s: float) -> None:
        while not self._stopping.wait(every_s):
            self._sync()

    def _sync(self) -> None:
        """Never holds the lock while the disk works: appending goes on."""
        with self._lock:
            files, self._retired = self._retired, []
            try:
                if self._unsynced:
                    files.append(os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC))
                    if self._file is not None:
                        files.append(os.dup(self._file))
                self._unsynced = False
            except OSError as error:
                log.error("%s", disk_failure(self.folder, error))
        for file in files:
            try:
                os.fsync(file)
            except OSError as error:
                log.error("%s", disk_failure(self.folder, error))
            finally:
                os.close(file)

    def _let_go(self, folder: Path) -> None:
        """Gives a folder's lock back; takes the folder away where it is empty."""
        lock = self._held.pop(folder)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if not folder.exists():
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _hold(folder: Path) -> FileLock:
    """The lock of a process's folder.

    Raises:
        Timeout: Its process lives, or another has taken it over.
    """
    lock = FileLock(folder.with_suffix(".lock"), thread_local=False)
    lock.acquire(timeout=0)
    return lock
