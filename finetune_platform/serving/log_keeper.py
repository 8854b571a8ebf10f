"""The process behind the interactions log: it takes rows from one gateway, makes them safe and moves them to the lake.

A process of its own, because replacing personal data and writing tables would hold up the gateway's requests. It
ignores the signals that end a gateway, flushes at once on SIGUSR1, and ends when the gateway's end of the socket is
closed, however that came about: what was handed over is written first. The gateway's side is `interaction_log.py`.

    python -m finetune_platform.serving.log_keeper FD FOLDER LAKE_URL FLUSH_EVERY_S
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import orjson

from finetune_platform.lake import Lake
from finetune_platform.serving.flush import Flushed, Flusher
from finetune_platform.serving.interactions import Row
from finetune_platform.serving.log_frames import Frames
from finetune_platform.serving.stored_rows import stored
from finetune_platform.serving.write_ahead import WriteAhead

NICENESS = 5
"""Requests come first where processors are few."""

RECEIVE_BYTES = 2**18
REPORT_EVERY_S = 0.2
REST_S = 0.02

log = logging.getLogger(__name__)


class Keeper:
    """Makes rows safe as they come, and flushes in a thread.

    Args:
        folder: Of the write-ahead files, on a local disk; the keepers of one machine may share it.
        lake: Where the tables are.
        flush_every_s: How long a row may wait for the lake.
        max_bytes: What may wait on the disk.

    Raises:
        StorageFailed: The folder cannot be made.
    """

    def __init__(self, folder: Path, lake: Lake, flush_every_s: float = 10.0, max_bytes: int = 2**30) -> None:
        self._files = WriteAhead(folder, max_bytes=max_bytes)
        self._flusher = Flusher(self._files, lake, flush_every_s)
        self._flusher.start()
        self._acknowledged = self._refused = 0

    def keep(self, row: Row, redact: bool = True) -> Exception | None:
        """Writes a row to the write-ahead file, personal data and secrets replaced; why it is lost, where it is."""
        try:
            self._files.append(stored(row, redact))
        except Exception as error:  # noqa: BLE001 - whatever breaks on one row, the next ones must be kept
            self._refused += 1
            if self._refused & (self._refused - 1) == 0:  # The 1st, 2nd, 4th, 8th …: loud, and no flood.
                log.error("%d rows of the interactions log are lost so far; this one: %s", self._refused, error)
            return error
        self._acknowledged += 1
        return None

    def flush_once(self) -> Flushed:
        """Moves what is kept to the lake now."""
        return self._flusher.flush_once()

    def flush_soon(self) -> None:
        """Has it done in the keeper's thread."""
        self._flusher.soon()

    def figures(self) -> dict[str, int | str | bool | None]:
        """How the log does, for the gateway."""
        failure = self._flusher.failure
        return {
            "acknowledged": self._acknowledged,
            "refused": self._refused,
            "waiting_bytes": self._files.waiting_bytes,
            "flushed_rows": self._flusher.rows,
            "failure": None if failure is None else str(failure),
            "flushing": self._flusher.alive,
        }

    def close(self) -> None:
        """Tries the lake once more; what it does not take waits for the next start."""
        self._flusher.stop()
        self._flusher.flush_once()
        self._files.close()


def serve(gateway: socket.socket, keeper: Keeper) -> None:
    """Keeps what a gateway sends until it closes its end, and tells it several times a second how the log does."""
    ending = threading.Event()
    reporting = threading.Thread(target=_report, args=(gateway, keeper, ending), daemon=True)
    reporting.start()
    frames = Frames()
    while piece := gateway.recv(RECEIVE_BYTES):
        for row, redact in frames.feed(piece):
            keeper.keep(row, redact)
        if len(piece) < RECEIVE_BYTES:
            # What comes meanwhile waits in the kernel, as safe as before; a gateway that wakes nobody is faster.
            time.sleep(REST_S)
    ending.set()
    reporting.join()
    keeper.close()


def _report(gateway: socket.socket, keeper: Keeper, ending: threading.Event) -> None:
    told: dict[str, int | str | bool | None] = {}
    while True:
        last = ending.wait(REPORT_EVERY_S)
        if (now := keeper.figures()) != told:
            told = now
            try:
                gateway.sendall(orjson.dumps(now) + b"\n")
            except OSError:
                return  # Nobody listens any more; the rows are still read.
        if last:
            return


def main() -> None:
    descriptor, folder, lake_url, flush_every_s = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    keeper = Keeper(Path(folder), Lake(lake_url), float(flush_every_s))
    signal.signal(signal.SIGUSR1, lambda number, frame: keeper.flush_soon())
    serve(socket.socket(fileno=int(descriptor)), keeper)


if __name__ == "__main__":
    main()
