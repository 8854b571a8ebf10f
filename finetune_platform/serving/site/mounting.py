"""Puts sites into the gateway's application, and tells their pages who has come.

The framework has one application a process, which every site of every gateway of the process (there are several
gateways in tests) shares; the first one that starts runs it.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from nicegui import app as framework
from nicegui import ui
from starlette.routing import Mount

from finetune_platform.serving.callers import Caller, Refused
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.interaction_ids import installation_secret
from finetune_platform.serving.site.gate import ENTERED, Gate
from finetune_platform.serving.site.guesses import Guesses
from finetune_platform.serving.site.sessions import Session, Sessions
from finetune_platform.serving.site.signing_in import TEMPLATES, signing_in
from finetune_platform.serving.site.site import Site

FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#2458c6"/>'
    '<path d="M7 21l6-7 5 4 7-9" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round"/></svg>'
)


class Entered(NamedTuple):
    """What a request to a site is about."""

    gateway: Gateway
    site: Site
    sessions: Sessions


class Visit(NamedTuple):
    """Somebody who has opened a page, with the tasks that they may use."""

    site: Site
    sessions: Sessions
    session: Session
    caller: Caller
    tasks: list[str]


def mount_sites(app: FastAPI, gateway: Gateway, sites: Sequence[Site]) -> None:
    """Serves sites from a gateway's application.

    Args:
        app: The gateway's; its other routes must be there already.
        gateway: Who knows the keys.
        sites: At least one.
    """
    guesses = Guesses()
    alone = app.router.lifespan_context
    framework.user_middleware.clear()
    framework.middleware_stack = None
    doors = []
    for site in sites:
        secret = installation_secret(gateway.database, f"{site.word}_page")
        sessions = Sessions(gateway.directory, secret, site.needed)
        app.include_router(signing_in(site, sessions, guesses))
        doors.append(_door(Entered(gateway, site, sessions)))
    ui.run_with(
        app,
        mount_path=sites[0].path,
        favicon=FAVICON,
        dark=None,
        tailwind=False,
        binding_refresh_interval=None,
        show_welcome_message=False,
        # Pages of plots are long: a browser that missed more than this loads the page anew.
        message_history_length=100,
    )
    # The framework has mounted itself at one path and without a gate.
    app.routes[:] = [route for route in app.routes if not (isinstance(route, Mount) and route.app is framework)]
    app.routes.extend(doors)
    with_framework = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (with_framework if framework.is_stopped else alone)(app):
            yield

    app.router.lifespan_context = lifespan


def visit_of(request: Request) -> Visit | Response:
    """Who has opened a page, or what stands in its place for those who may not see it."""
    entered: Entered = request.scope[ENTERED]
    gateway, site, sessions = entered
    session = sessions.of(request.cookies.get(site.cookie))
    if session is None:
        return RedirectResponse(site.login, 303)
    try:
        caller = sessions.caller(session)
    except Refused as refused:
        if refused.status not in (401, 403):
            return HTMLResponse(refused.message, refused.status, refused.headers)
        return RedirectResponse(f"{site.login}?ended=1", 303)
    tasks = [served.name for served in gateway.tasks_of(caller)]
    if not tasks:
        return HTMLResponse(TEMPLATES.fragment("no_task", site=site), 403)
    return Visit(site, sessions, session, caller, tasks)


def _door(entered: Entered) -> Mount:
    site = entered.site
    door = Mount(site.path, Gate(site.own or framework, site, entered.sessions, entered))
    if site.answered_apart:
        # The application's endpoints below the path tell of a wrong path or method themselves.
        door.path_regex = re.compile(rf"^{site.path}/(?P<path>(?!{re.escape(site.answered_apart)}).*)$")
    return door
