"""The review pages as a site of the gateway's application, at `/review`."""

from collections.abc import Awaitable
from typing import NamedTuple

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from nicegui import ui

from finetune_platform.errors import FinetuneError
from finetune_platform.review.decisions_page import DecisionsPage
from finetune_platform.review.desk import Desk
from finetune_platform.review.figures_page import FiguresPage
from finetune_platform.review.fragments import fragment, head_html
from finetune_platform.review.frame import Frame, in_a_thread
from finetune_platform.review.rows_page import RowsPage
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.site.mounting import Visit, visit_of
from finetune_platform.serving.site.site import Site
from finetune_platform.task import Task

RECONNECT_S = 120.0
"""How long a page outlives its connection: a phone that was in a tunnel goes on where it was."""

NO_BATCH = "no batch is open"


class Waiting(NamedTuple):
    """What a task has for somebody: rows that they could answer, of a batch that was opened for a reason."""

    task: str
    left: int
    reason: str


def review_site(gateway: Gateway) -> Site:
    """The review pages of a gateway.

    Args:
        gateway: Whose tasks people review.
    """
    return Site(
        path="/review",
        title="Review",
        purpose="Label, correct and rate what the model answered.",
        needed="review",
        role="reviewer",
        roles="reviewer, or lead to decide where reviewers disagree",
        pages=("/rows", "/decisions", "/figures"),
        content=gateway,
    )


@ui.page("/rows", title="Review", reconnect_timeout=RECONNECT_S)
async def rows(request: Request, task: str = "") -> Response | None:
    """The rows of a task; of several tasks, which there are."""
    visit = visit_of(request)
    if isinstance(visit, Response):
        return visit
    gateway: Gateway = visit.site.content
    chosen = _task(visit, task)
    ui.add_head_html(head_html())
    if chosen is None:
        Frame(visit, "rows", None).build()
        return await _begun(_choose(visit))
    page = RowsPage(visit, gateway.database, chosen)
    page.build()
    return await _begun(page.begin())


@ui.page("/decisions", title="Decisions", reconnect_timeout=RECONNECT_S)
async def decisions(request: Request, task: str = "") -> Response | None:
    """What a lead decides."""
    found = _lead_of(request, task)
    if isinstance(found, Response):
        return found
    page = DecisionsPage(found[0], found[0].site.content.database, found[1])
    page.build()
    return await _begun(page.begin())


@ui.page("/figures", title="Agreement")
async def figures(request: Request, task: str = "") -> Response | None:
    """How far people agree."""
    found = _lead_of(request, task)
    if isinstance(found, Response):
        return found
    page = FiguresPage(found[0], found[0].site.content.database, found[1])
    page.build()
    return await _begun(page.begin())


async def _begun(beginning: Awaitable[None]) -> Response | None:
    """Waits until a page shows something; what to say instead where the database does not answer."""
    try:
        await beginning
    except FinetuneError as error:
        return HTMLResponse(fragment("away", problem=error.problem), 503, {"retry-after": "5"})
    return None


async def _choose(visit: Visit) -> None:
    gateway: Gateway = visit.site.content
    waiting = await in_a_thread(lambda: [_waiting(gateway, name, visit.caller.actor) for name in visit.tasks])
    ui.html(fragment("home", site=visit.site, waiting=waiting), sanitize=False)


def _lead_of(request: Request, name: str) -> tuple[Visit, Task] | Response:
    """A lead and the task that they opened; others go to the rows."""
    visit = visit_of(request)
    if isinstance(visit, Response):
        return visit
    chosen = _task(visit, name)
    if chosen is None or not visit.caller.may("adjudicate"):
        return RedirectResponse(visit.site.first, 303)
    ui.add_head_html(head_html())
    return visit, chosen


def _task(visit: Visit, name: str) -> Task | None:
    """The task of that name, or the only one; None where somebody has to choose."""
    gateway: Gateway = visit.site.content
    chosen = name if name in visit.tasks else visit.tasks[0] if len(visit.tasks) == 1 else None
    return gateway.tasks[chosen].task if chosen else None


def _waiting(gateway: Gateway, name: str, actor: str) -> Waiting:
    task, database = gateway.tasks[name].task, gateway.database
    desk = Desk(database, task, actor)
    batch = desk.newest()
    if batch is not None:
        return Waiting(name, desk.progress(batch).left, batch.reason)
    studio = task.labeling.label_studio
    return Waiting(name, 0, f"labelled in Label Studio: {studio.url}" if studio else NO_BATCH)
