"""Shadow traffic: a copy of some requests goes to an adapter whose answers nobody is shown, only counted and logged."""

import asyncio
from collections.abc import Callable

from finetune_platform.serving.answering import Answering, Ask
from finetune_platform.serving.plan import Choice, Plan, is_shadowed

MOST_AT_ONCE = 8
"""Copies under way; more are dropped: they must never slow the answers that somebody waits for."""


class Shadow:
    """Sends copies.

    Args:
        plan_of: What serves a task now.
        answering: Asks the adapter, counts and notes.
    """

    def __init__(self, plan_of: Callable[[str], Plan], answering: Answering) -> None:
        self._plan_of, self._answering = plan_of, answering
        self._running: set[asyncio.Task[None]] = set()
        self.dropped = 0

    def maybe(self, ask: Ask) -> None:
        """Sends a copy if the plan says so, without waiting for it."""
        plan = self._plan_of(ask.served.name)
        if plan.shadow is None or not is_shadowed(plan, ask.served.name, ask.session, ask.tenant):
            return
        if not ask.served.is_ready(plan.shadow):
            return
        if len(self._running) >= MOST_AT_ONCE:
            self.dropped += 1
            return
        task = asyncio.create_task(self._answering.shadow(ask, Choice("shadow", plan.shadow)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Gives up what is under way."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
