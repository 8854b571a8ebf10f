"""What every review page has around it: its head line, the viewer's rights at every look, threads for the database."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from nicegui import ui

from finetune_platform.review.fragments import fragment
from finetune_platform.serving.callers import Caller, Refused
from finetune_platform.serving.permissions import Permission
from finetune_platform.serving.site.mounting import Visit
from finetune_platform.task import Task

T = TypeVar("T")
Place = Literal["rows", "decisions", "figures"]

SIGNED_OUT = "/login?ended=1"
WORKERS = ThreadPoolExecutor(4, "review-page")
"""Not the loop's own threads: what waits for a database here must keep no request waiting."""

LOOK_S = 2.0


async def in_a_thread(work: Callable[[], T]) -> T:
    """What work with the database gives, without keeping others waiting."""
    return await asyncio.get_running_loop().run_in_executor(WORKERS, work)


class Frame:
    """Around one open page.

    Args:
        visit: Who has opened it.
        place: Which page it is.
        task: Of which task.
    """

    def __init__(self, visit: Visit, place: Place, task: Task | None) -> None:
        self._visit, self._place, self._task = visit, place, task
        self._needed: Permission = "review" if place == "rows" else "adjudicate"

    def build(self) -> None:
        """Makes the head line, and looks every two seconds whether the viewer may still be here."""
        top = fragment(
            "top",
            caller=self._visit.caller,
            place=self._place,
            task=self._task.name if self._task else "",
            tasks=self._visit.tasks,
            site=self._visit.site,
        )
        ui.html(top, sanitize=False)
        ui.timer(LOOK_S, self.caller, immediate=False)

    def caller(self) -> Caller | None:
        """The viewer, who is sent away where they may not be here any more; None: not now."""
        try:
            caller = self._visit.sessions.caller(self._visit.session)
        except Refused as refused:
            if refused.status in (401, 403):
                ui.navigate.to(SIGNED_OUT)
            return None
        if (self._task and not caller.may_use(self._task.name)) or not caller.may(self._needed):
            ui.navigate.to("/rows")
            return None
        return caller
