"""What the page knows of each task, read at most once a second however many people look, and kept when reading fails.

What it means to a reader is `verdicts.py`'s and `panels.py`'s.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from finetune_platform.errors import FinetuneError
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.overview import history_of, rollout_of, traffic_of
from finetune_platform.serving.page.minutes import MinuteTraffic, minute_of
from finetune_platform.serving.plan import Plan
from finetune_platform.serving.traffic import Told
from finetune_platform.task import Task

FRESH_S = 1.0
AWAY_S = 2.5
"""How long the database may be silent before the page says so: a gateway asks it several times a second."""

PATIENCE_S = 2.0
"""How long somebody waits for another's reading; what is known already is shown then."""

HOUR = timedelta(hours=1)


class Look(NamedTuple):
    """One task as of `at`; `at` None: the database has been away since this gateway started to look.

    Attributes:
        plan: What this gateway goes by, which never waits for the database.
        rollout: As `overview.rollout_of` tells it; None: there has been none.
        arms: Each arm's figures of the last hour, as `overview.traffic_of` tells them.
        history: As `overview.history_of` tells it.
        traffic: By the minute, of the time asked for.
    """

    task: Task
    plan: Plan
    rollout: dict[str, Any] | None
    arms: list[dict[str, Any]]
    history: list[dict[str, Any]]
    traffic: list[Told]
    at: datetime | None


class _Kept(NamedTuple):
    value: Any
    at: datetime
    read_s: float


class Board:
    """Looks at tasks on behalf of everybody who has the page open.

    `update` reads and may take as long as the database does; the rest answers at once from what was read.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._minutes = {name: MinuteTraffic(name) for name in gateway.tasks}
        self._histories: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self._kept: dict[tuple[str, timedelta | None], _Kept] = {}
        self._changed_s: dict[str, float] = {}
        self._reading = threading.Lock()

    @property
    def away_since(self) -> datetime | None:
        """Since when the database has not answered; None: it does."""
        age_s = self._gateway.watch.age_s
        return datetime.now(UTC) - timedelta(seconds=age_s) if age_s > AWAY_S else None

    def update(self, chosen: str, span: timedelta, names: Iterable[str] = ()) -> None:
        """Reads what is older than a second.

        Args:
            chosen: The task of which everything is wanted, with traffic as far back as `span`.
            names: The tasks of which the rollout is.
        """
        if not self._reading.acquire(timeout=PATIENCE_S):
            return
        try:
            self._refresh(chosen, span, lambda now: self._read_all(chosen, span, now))
            for name in names:
                self._refresh(name, None, lambda now, name=name: self._read_rollout(name, now))  # type: ignore[misc]
        finally:
            self._reading.release()

    def changed(self, name: str) -> None:
        """What was read of a task before now is out of date."""
        self._changed_s[name] = time.monotonic()

    def rollout(self, name: str) -> dict[str, Any] | None:
        """A task's newest rollout."""
        kept = self._kept.get((name, None))
        return None if kept is None else kept.value

    def look(self, name: str, span: timedelta) -> Look:
        """Everything about one task."""
        task, plan = self._gateway.tasks[name].task, self._gateway.watch.plan(name)
        kept = self._kept.get((name, span))
        if kept is None:
            return Look(task, plan, None, [], [], [], None)
        rollout, arms, history, traffic = kept.value
        return Look(task, plan, rollout, arms, history, traffic, kept.at)

    def _refresh(self, name: str, span: timedelta | None, read: Callable[[datetime], Any]) -> None:
        kept, now_s = self._kept.get((name, span)), time.monotonic()
        if kept is not None and now_s - kept.read_s < FRESH_S and kept.read_s > self._changed_s.get(name, 0.0):
            return
        # Asking a database that is away may take its whole time-out; the gateway's own watch tells when it is back.
        if self.away_since is not None:
            return
        now = datetime.now(UTC)
        with suppress(FinetuneError):
            self._kept[name, span] = _Kept(read(now), now, now_s)

    def _read_rollout(self, name: str, now: datetime) -> dict[str, Any] | None:
        with self._gateway.database.reading() as session:
            row = rollouts.latest(session, name)
        return None if row is None else rollout_of(row, self._gateway.tasks[name].task, now)

    def _read_all(self, name: str, span: timedelta, now: datetime) -> tuple[Any, ...]:
        with self._gateway.database.reading() as session:
            version = routes.current(session, name).version
            traffic = self._minutes[name].read(session, minute_of(now - span), now)
        if self._histories.get(name, (None,))[0] != version:
            self._histories[name] = version, history_of(self._gateway.database, name)
        hour = minute_of(now - HOUR)
        arms = traffic_of([row for row in traffic if row.bucket >= hour])
        return self._read_rollout(name, now), arms, self._histories[name][1], traffic
