"""Puts the operator's page into the gateway's application.

The framework has one application a process, which every gateway of the process (there are several in tests) shares;
the first one that starts runs it.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from nicegui import app as framework
from nicegui import ui
from starlette.routing import Mount

from finetune_platform.serving.callers import Refused
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.interaction_ids import installation_secret
from finetune_platform.serving.page.board import Board
from finetune_platform.serving.page.fragments import fragment, head_html
from finetune_platform.serving.page.gate import LOGIN, PATH, SHOWN, Gate
from finetune_platform.serving.page.guesses import Guesses
from finetune_platform.serving.page.operator_page import OperatorPage
from finetune_platform.serving.page.sessions import COOKIE, Sessions
from finetune_platform.serving.page.signing_in import signing_in

SECRET_NAME = "operator_page"
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#2458c6"/>'
    '<path d="M7 21l6-7 5 4 7-9" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round"/></svg>'
)


class Shown(NamedTuple):
    """What a request to the page is about."""

    gateway: Gateway
    board: Board
    sessions: Sessions


def mount_operator_page(app: FastAPI, gateway: Gateway) -> None:
    """Serves the page of a gateway at `/operator` of its application.

    Args:
        app: The gateway's; its other routes must be there already.
        gateway: What the page shows and changes.
    """
    sessions = Sessions(gateway.directory, installation_secret(gateway.database, SECRET_NAME))
    app.include_router(signing_in(sessions, Guesses()))
    alone = app.router.lifespan_context
    framework.user_middleware.clear()
    framework.middleware_stack = None
    ui.run_with(
        app,
        mount_path=PATH,
        title="Operator",
        favicon=FAVICON,
        dark=None,
        tailwind=False,
        binding_refresh_interval=None,
        show_welcome_message=False,
        # Pages of plots are long: a browser that missed more than this loads the page anew.
        message_history_length=100,
    )
    mounted = next(route for route in reversed(app.routes) if isinstance(route, Mount) and route.path == PATH)
    mounted.app = Gate(framework, sessions, Shown(gateway, Board(gateway), sessions))
    # The operator's API tells of a wrong path or method itself.
    mounted.path_regex = re.compile(rf"^{PATH}/(?P<path>(?!v1/).*)$")
    with_framework = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (with_framework if framework.is_stopped else alone)(app):
            yield

    app.router.lifespan_context = lifespan


@ui.page("/", title="Operator")
async def operator(request: Request, task: str = "") -> Response | None:
    """The page, or what stands in its place for those who may not see it."""
    shown: Shown = request.scope[SHOWN]
    session = shown.sessions.of(request.cookies.get(COOKIE))
    if session is None:
        return RedirectResponse(LOGIN, 303)
    try:
        names = [served.name for served in shown.gateway.tasks_of(shown.sessions.caller(session))]
    except Refused as refused:
        if refused.status not in (401, 403):
            return HTMLResponse(refused.message, refused.status, refused.headers)
        return RedirectResponse(f"{LOGIN}?ended=1", 303)
    if not names:
        return HTMLResponse(fragment("no_task"), 403)
    ui.add_head_html(head_html())
    page = OperatorPage(shown.gateway, shown.board, shown.sessions, session, task if task in names else names[0])
    page.build()
    await page.refresh()
    return None
