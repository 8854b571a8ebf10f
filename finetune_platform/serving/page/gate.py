"""What stands before the page's framework: nobody gets there who is not signed in, and a browser is told to be strict.

Without it anybody could make the framework build pages, and open its web socket from another site.
"""

from urllib.parse import parse_qs, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from finetune_platform.serving.page.sessions import COOKIE, Sessions

PATH = "/operator"
LOGIN = f"{PATH}/login"
SHOWN = "operator_page"
OPEN = ("/_nicegui/", "/favicon.ico")
"""Below `PATH`: scripts and styles, the same for everybody."""

# The page's framework compiles its components in the browser, hence unsafe-eval; nothing comes from elsewhere.
HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws: wss:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Gate:
    """Lets requests of signed-in people through, sends others to the sign-in page.

    Args:
        app: The framework's.
        sessions: Who is signed in.
        shown: Handed on to the page, in the scope under `SHOWN`.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, shown: object) -> None:
        self._app, self._sessions, self._shown = app, sessions, shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[SHOWN] = self._shown
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(OPEN):
            await self._app(scope, receive, send)
        elif self._sessions.of(HTTPConnection(scope).cookies.get(COOKIE)) is not None:
            await self._app(scope, receive, _strict(send))
        elif scope["type"] == "websocket":
            await WebSocketClose(4401)(scope, receive, send)
        elif path in ("", "/"):
            await RedirectResponse(_login(scope), 303)(scope, receive, _strict(send))
        else:
            await PlainTextResponse("sign in first", 401)(scope, receive, _strict(send))


def _login(scope: Scope) -> str:
    task = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("task")
    return f"{LOGIN}?{urlencode({'task': task[0]})}" if task else LOGIN


def _strict(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return with_headers
