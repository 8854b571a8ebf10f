"""The gateway's own look at rollouts: a canary that does harm is taken back within seconds, with or without Dagster.

It also has people told of it, and forgets traffic counts that no rollout and no plot asks for any more.
"""

import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError
from finetune_platform.serving import rollouts
from finetune_platform.serving.messenger import Messenger
from finetune_platform.serving.traffic import forget
from finetune_platform.task import Task

EVERY_S = 5.0
FORGET_EVERY_S = 3600.0
KEPT = timedelta(days=35)
"""Traffic counts older than this are forgotten: longer than a rollout's usual time-outs, a month of plots."""

log = logging.getLogger(__name__)


class RolloutClock:
    """Ticks the rollouts of some tasks in a thread.

    Args:
        tasks: Whose rollouts.
        database: Where they are stored.
        messenger: Has people told.
        every_s: Seconds between two looks.
    """

    def __init__(
        self, tasks: Sequence[Task], database: Database, messenger: Messenger, every_s: float = EVERY_S
    ) -> None:
        self._tasks, self._database, self._messenger, self._every_s = tasks, database, messenger, every_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollout-clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._messenger.stop()

    def _run(self) -> None:
        forgotten_at = float("-inf")
        while not self._ending.wait(self._every_s):
            for task in self._tasks:
                self._tick(task)
            self._messenger.look()
            if time.monotonic() - forgotten_at > FORGET_EVERY_S:
                forgotten_at = time.monotonic()
                self._forget()

    def _forget(self) -> None:
        try:
            forget(self._database, datetime.now(UTC) - KEPT)
        except FinetuneError as error:
            log.warning("old traffic counts stay: %s", error.problem)

    def _tick(self, task: Task) -> None:
        try:
            ticked = rollouts.tick(self._database, task)
        except FinetuneError as error:
            log.warning("%s: its rollout waits: %s", task.name, error.problem)
            return
        if ticked is not None and ticked.changed:
            log.warning("%s: %s: %s", task.name, ticked.rollout_id, ticked.decision.message)
