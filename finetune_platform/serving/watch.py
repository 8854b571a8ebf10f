"""Routes in memory: a thread asks the database several times a second and every request reads the snapshot.

A change is in force on every gateway within a second. While the database is away the last snapshot serves on, without
canary and shadow: their withdrawal could not be heard. A kill that cannot be written takes effect here at once and is
written when the database is back, by the next gateway on this machine if this one has ended by then.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from finetune_platform.database import Database
from finetune_platform.errors import BadInput, FinetuneError, PermanentError
from finetune_platform.serving import routes
from finetune_platform.serving.kept_kills import KeptKill, KeptKills
from finetune_platform.serving.plan import Plan, in_doubt
from finetune_platform.serving.routes import Route

POLL_S = 0.2
LEASE_S = 1.0
"""How old a snapshot may be for a canary to answer: nothing may come from an adapter rolled back a second ago."""

KILL_WAIT_S = 2.0
"""How long who kills waits to hear that it is written."""

JOIN_S = 5.0

UNROUTED = Plan()
"""Of a task that nobody has routed yet: the base model answers."""

Listener = Callable[[Mapping[str, Plan]], None]
"""Called in the watching thread with the changed tasks and their plans; must not raise."""

log = logging.getLogger(__name__)


@dataclass
class _Kill:
    """One that is in force here and not written yet; `refused` is why it never will be."""

    asked: KeptKill
    settled: threading.Event = field(default_factory=threading.Event)
    refused: PermanentError | None = None


class RouteWatch:
    """The routes of all tasks, as of a moment ago.

    Args:
        database: Where they are stored.
        kills: Folder that keeps kills until they are written; None: they last as long as the process.
        poll_s: Seconds between two looks.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        kills: Path | None = None,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._poll_s, self._clock = database, poll_s, clock
        self._kept = KeptKills(kills)
        self._listeners: list[Listener] = []
        self._routes: dict[str, Route] = {}
        self._kills: dict[str, _Kill] = {}
        self._looked_at = float("-inf")
        self._ending = threading.Event()
        self._wake = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="route-watch", daemon=True)

    def listen(self, listener: Listener) -> None:
        """Has somebody hear of every change from now on."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Looks once, then on in a thread. Kills that an earlier gateway could not write are in force at once.

        Raises:
            FinetuneError: The database does not answer: a gateway that knows no route must not start.
        """
        for task, asked in self._kept.left().items():
            log.warning("%s: a kill that could not be written is in force: %s", task, asked.reason)
            self._kills[task] = _Kill(asked)
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; one that hangs in the database is left to the end of the process."""
        self._ending.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was the truth for certain."""
        return self._clock() - self._looked_at

    def plan(self, task: str) -> Plan:
        """What serves a task now, as far as this gateway may rely on it."""
        # The kill first: the watching thread puts it into the routes before it forgets it here.
        kill = self._kills.get(task)
        plan = self.stored_plan(task)
        if kill is not None:
            return plan.model_copy(update={"killed": plan.killed or kill.asked.reason})
        if (plan.canary or plan.shadow) and self.age_s > LEASE_S:
            return in_doubt(plan)
        return plan

    def stored_plan(self, task: str) -> Plan:
        """The plan as it was last read, whatever its age: what should be loaded."""
        route = self._routes.get(task)
        return route.plan if route is not None else UNROUTED

    def look(self) -> None:
        """Reads what has changed since the last look, then writes kills that wait.

        Raises:
            FinetuneError: The database does not answer.
        """
        with self._looking:
            # The snapshot is as old as the question, not as the answer.
            asked_at = self._clock()
            with self._database.reading() as session:
                newest = routes.versions(session)
                stale = [t for t, v in newest.items() if t not in self._routes or self._routes[t].version != v]
                found = {task: self._read(session, task, newest[task]) for task in stale}
            self._routes = {**self._routes, **found}
            self._looked_at = asked_at
            if found:
                changed = {task: route.plan for task, route in found.items()}
                for listener in self._listeners:
                    listener(changed)
            for task, kill in list(self._kills.items()):
                self._write(task, kill)

    def kill(self, task: str, actor: str, reason: str) -> bool:
        """Kills a task on this gateway at once and everywhere as soon as it is written.

        Returns:
            Whether it is written; False while the database is away.

        Raises:
            BadInput: No reason is given, or one that cannot be stored: the kill is not in force.
        """
        routes.check_kill(task, reason)
        kill = self._kills.setdefault(task, _Kill(KeptKill(actor, reason)))
        self._wake.set()
        self._kept.keep(task, kill.asked)
        if kill.settled.is_set():
            self._kept.forget(task)
        # Not written in this thread: whoever kills must not hang with a database that does.
        written = kill.settled.wait(KILL_WAIT_S)
        if kill.refused is not None:
            raise kill.refused
        return written

    def revive(self, task: str, actor: str, reason: str) -> Route:
        """Ends a kill, also one that waits to be written, and hears of it at once.

        Raises:
            FinetuneError: The database does not answer.
        """
        self.look()
        route = routes.revive(self._database, task, actor=actor, reason=reason)
        self.look()
        return route

    def apply(self, task: str, edit: routes.Edit, actor: str, action: str, reason: str) -> Route:
        """Changes a route and hears of it at once.

        Raises:
            FinetuneError: The database does not answer, or the edit is refused.
        """
        route = routes.change(self._database, task, edit, actor=actor, action=action, reason=reason)
        self.look()
        return route

    def _read(self, session: Session, task: str, version: int) -> Route:
        try:
            return routes.current(session, task)
        except BadInput as error:
            # Told once a version; the other tasks' changes, and kills, must be heard all the same.
            log.error("the last route serves on, without canary and shadow: %s", error)
            return Route(version, in_doubt(self.stored_plan(task)))

    def _write(self, task: str, kill: _Kill) -> None:
        try:
            route = routes.kill(self._database, task, actor=kill.asked.actor, reason=kill.asked.reason)
        except PermanentError as error:
            # Tried again and again it would keep every other change from being heard.
            log.error("%s: a kill cannot be written and is dropped: %s", task, error)
            kill.refused = error
        else:
            self._routes = {**self._routes, task: route}
        del self._kills[task]
        kill.settled.set()
        self._kept.forget(task)

    def _run(self) -> None:
        away = False
        while not self._ending.is_set():
            self._wake.wait(self._poll_s)
            self._wake.clear()
            try:
                self.look()
            except FinetuneError as error:
                if not away:
                    log.warning("routes cannot be read, the last ones serve on: %s", error.problem)
                away = True
            else:
                if away:
                    log.warning("routes are read again")
                away = False
