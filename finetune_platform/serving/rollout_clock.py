"""The gateway's own look at rollouts: a canary that does harm is taken back within seconds, with or without Dagster."""

import logging
import threading
from collections.abc import Sequence

from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError
from finetune_platform.serving import rollouts
from finetune_platform.task import Task

EVERY_S = 5.0

log = logging.getLogger(__name__)


class RolloutClock:
    """Ticks the rollouts of some tasks in a thread.

    Args:
        tasks: Whose rollouts.
        database: Where they are stored.
        every_s: Seconds between two looks.
    """

    def __init__(self, tasks: Sequence[Task], database: Database, every_s: float = EVERY_S) -> None:
        self._tasks, self._database, self._every_s = tasks, database, every_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollout-clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._every_s):
            for task in self._tasks:
                self._tick(task)

    def _tick(self, task: Task) -> None:
        try:
            ticked = rollouts.tick(self._database, task)
        except FinetuneError as error:
            log.warning("%s: its rollout waits: %s", task.name, error.problem)
            return
        if ticked is not None and ticked.changed:
            log.warning("%s: %s: %s", task.name, ticked.rollout_id, ticked.decision.message)
