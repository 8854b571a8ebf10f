"""The pages of the loop as a site of the gateway's application, at `/loop`: HTML that needs no script.

What they tell is `cycle.py`'s; how it looks, the templates'.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from finetune_platform.errors import FinetuneError
from finetune_platform.identity import content_id
from finetune_platform.lake import Lake
from finetune_platform.loop.cycle import Cycle, Cycles
from finetune_platform.loop.picture import mark, picture_of, tone
from finetune_platform.loop.ways import ways_from
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.site.mounting import Visit, visit_of
from finetune_platform.serving.site.site import Site
from finetune_platform.serving.site.templates import Templates
from finetune_platform.settings import Settings

T = TypeVar("T")

REFRESH_S = 15
READERS = ThreadPoolExecutor(2, "loop-page")
"""Not the event loop's own threads: what waits for a database or a lake here must keep no request waiting."""

TEMPLATES = Templates(Path(__file__).parent / "templates", {"mark": mark, "tone": tone})


class Content(NamedTuple):
    """What the pages know."""

    gateway: Gateway
    cycles: Cycles
    lake: Lake
    place: Settings


def loop_site(gateway: Gateway, place: Settings) -> Site:
    """The loop's pages of a gateway.

    Args:
        gateway: Whose tasks are shown.
        place: Where their lake is, and Dagster's UI.
    """
    lake = Lake(place.lake_url)
    return Site(
        path="/loop",
        title="Loop",
        purpose="See where each task's cycle stands, what it waits for, what it costs and returns.",
        needed="read_status",
        role="operator",
        roles="operator or auditor",
        pages=("/", "/{task}"),
        content=Content(gateway, Cycles(lake, gateway.database), lake, place),
        own=Starlette(routes=[Route("/", tasks_page), Route("/{task}", task_page)]),
    )


async def tasks_page(request: Request) -> Response:
    """The caller's tasks, each with where its cycle stands."""
    visit = visit_of(request)
    if isinstance(visit, Response):
        return visit
    known: Content = visit.site.content

    def read() -> list[Cycle]:
        return [known.cycles.of(known.gateway.tasks[name].task) for name in visit.tasks]

    return await _shown(visit, read, lambda cycles: {"main": "tasks", "title": "Loop", "cycles": cycles})


async def task_page(request: Request) -> Response:
    """One task's cycle; a task that the caller may not use does not exist for them."""
    visit = visit_of(request)
    if isinstance(visit, Response):
        return visit
    known: Content = visit.site.content
    name = request.path_params["task"]
    if name not in visit.tasks:
        return HTMLResponse(_document(visit, "missing", "Loop", asked=name), 404)
    task = known.gateway.tasks[name].task

    def values(cycle: Cycle) -> dict[str, Any]:
        ways = {one.name: ways_from(one, task, known.lake, known.place) for one in cycle.stations}
        picture = picture_of(cycle.stations)
        return {"main": "task", "title": f"{name} · loop", "cycle": cycle, "picture": picture, "ways": ways}

    return await _shown(visit, lambda: known.cycles.of(task), values)


async def _shown(visit: Visit, read: Callable[[], T], values: Callable[[T], dict[str, Any]]) -> Response:
    """A page of what was read in a thread; what to say instead where that cannot be read."""
    try:
        found = await asyncio.get_running_loop().run_in_executor(READERS, read)
    except FinetuneError as error:
        page = _document(visit, "away", "Loop", error=error)
        return HTMLResponse(page, 503, {"retry-after": str(REFRESH_S)})
    return HTMLResponse(_document(visit, **values(found)))


def _document(visit: Visit, main: str, title: str, **values: Any) -> str:
    body = TEMPLATES.fragment(main, site=visit.site, **values)
    return TEMPLATES.fragment(
        "page",
        head=TEMPLATES.head_html("loop.css", "loop.js"),
        refresh_s=REFRESH_S,
        seen=content_id("pg", body),
        title=title,
        body=body,
        visit=visit,
        site=visit.site,
        chosen=values["cycle"].task.name if "cycle" in values else "",
    )
