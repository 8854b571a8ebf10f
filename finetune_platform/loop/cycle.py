"""Everything that is told of a task's cycle, as of one moment; for pages, read seldom however many people look."""

import threading
import time
from typing import NamedTuple

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.loop.money import Return, Spent, return_of, spent_of
from finetune_platform.loop.stations import Station, here, stations_of
from finetune_platform.task import Task

FRESH_S = 5.0


class Cycle(NamedTuple):
    """One task's."""

    task: Task
    stations: list[Station]
    spent: Spent
    gained: Return | None

    @property
    def here(self) -> Station:
        """Where it stands."""
        return here(self.stations)


def cycle_of(task: Task, lake: Lake, database: Database) -> Cycle:
    """A task's cycle as of now."""
    return Cycle(
        task, stations_of(task, lake, database), spent_of(task, lake, database), return_of(task, lake, database)
    )


class Cycles:
    """Cycles as of a few seconds ago: reading one asks the database and the lake a dozen times.

    Args:
        lake: Where their manifests are.
        database: Where their state is.
    """

    def __init__(self, lake: Lake, database: Database) -> None:
        self._lake, self._database = lake, database
        self._kept: dict[str, tuple[float, Cycle]] = {}
        self._reading = threading.Lock()

    def of(self, task: Task) -> Cycle:
        """A task's."""
        with self._reading:
            read_s, cycle = self._kept.get(task.name, (float("-inf"), None))
            if cycle is None or time.monotonic() - read_s >= FRESH_S:
                cycle = cycle_of(task, self._lake, self._database)
                self._kept[task.name] = time.monotonic(), cycle
            return cycle
