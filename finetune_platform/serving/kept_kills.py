"""Kills that are in force on this machine and not in the database yet, as files: a gateway that dies loses none.

When a kill is written and forgotten is `watch.py`'s.
"""

import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

UNREADABLE = "killed while the database was away; the note of who and why cannot be read"

log = logging.getLogger(__name__)


class KeptKill(NamedTuple):
    """Who killed a task, and why."""

    actor: str
    reason: str


class KeptKills:
    """One file a task.

    Args:
        folder: Where they are; None keeps none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def keep(self, task: str, kill: KeptKill) -> None:
        """Writes a kill down, whole or not at all. Where that fails, the log says that it may be lost."""
        if self._folder is None:
            return
        whole = self._file(self._folder, task)
        part = whole.with_suffix(f".{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="ascii") as file:
                json.dump(kill._asdict(), file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(whole)
        except OSError as error:
            log.error("%s: a kill is in force, but lost if this gateway ends before it is written: %s", task, error)

    def forget(self, task: str) -> None:
        """Takes a kill out: it is in the database, or never will be."""
        if self._folder is None:
            return
        try:
            self._file(self._folder, task).unlink(missing_ok=True)
        except OSError as error:
            log.error("%s: the next gateway to start here will kill it once more: %s", task, error)

    def left(self) -> dict[str, KeptKill]:
        """What gateways that ended have left, by task. Of a damaged file, that there was a kill."""
        found = sorted(self._folder.glob("*.json")) if self._folder is not None else []
        return {file.name.removesuffix(".json"): _read(file) for file in found}

    def _file(self, folder: Path, task: str) -> Path:
        return folder / f"{task}.json"


def _read(file: Path) -> KeptKill:
    try:
        return KeptKill(**{key: str(value) for key, value in json.loads(file.read_text(encoding="ascii")).items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.error("%s: %s", file, error)
        return KeptKill("gateway", UNREADABLE)
