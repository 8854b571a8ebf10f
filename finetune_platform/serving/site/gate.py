"""What stands before the pages' framework: nobody gets there who is not signed in, and a browser is told to be strict.

Without it anybody could make the framework build pages, and open its web socket from another site. The framework serves
all sites from one set of routes: what a site does not have is nobody's there.
"""

from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from finetune_platform.serving.site.sessions import Sessions
from finetune_platform.serving.site.site import Site

ENTERED = "entered_site"
FRAMEWORK = "/_nicegui"
OPEN = ("/_nicegui/", "/favicon.ico")
"""Below a site's path: scripts and styles, the same for everybody."""

KEPT = ("task", "to")
"""Of the query of an address that somebody opens before they have signed in; `to` is its path below the site's."""

# The pages' framework compiles its components in the browser, hence unsafe-eval; nothing comes from elsewhere.
HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws: wss:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Gate:
    """Lets requests of signed-in people through to a site's pages, sends others to the sign-in page.

    Args:
        app: What answers for its pages.
        site: Which site.
        sessions: Who is signed in.
        entered: Handed on to the pages, in the scope under `ENTERED`.
    """

    def __init__(self, app: ASGIApp, site: Site, sessions: Sessions, entered: object) -> None:
        self._app, self._site, self._sessions, self._entered = app, site, sessions, entered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[ENTERED] = self._entered
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if path.startswith(OPEN):
            await self._app(scope, receive, send)
        elif self._sessions.of(HTTPConnection(scope).cookies.get(self._site.cookie)) is not None:
            await self._go_on(path)(scope, receive, _strict(send))
        elif scope["type"] == "websocket":
            await WebSocketClose(4401)(scope, receive, send)
        elif path == "/" or self._site.has(path):
            query = scope.get("query_string", b"").decode("latin-1")
            to = f"&{urlencode({'to': path})}" if self._site.has(path) and path != self._site.pages[0] else ""
            await RedirectResponse(self._site.login + kept_query(query + to), 303)(scope, receive, _strict(send))
        else:
            await PlainTextResponse("sign in first", 401)(scope, receive, _strict(send))

    def _go_on(self, path: str) -> ASGIApp:
        if self._site.has(path) or (self._site.own is None and path.startswith(FRAMEWORK)):
            return self._app
        if path == "/":
            return RedirectResponse(self._site.first, 303)
        return PlainTextResponse("there is no such page", 404)


def kept_query(query: str) -> str:
    """What of a query leads back to where somebody wanted to go, with its question mark; "" where that is nothing."""
    kept = [(name, value) for name, value in parse_qsl(query) if name in KEPT]
    return f"?{urlencode(kept)}" if kept else ""


def _strict(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return with_headers
