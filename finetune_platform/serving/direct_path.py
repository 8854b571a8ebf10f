"""The shortest way to the endpoints that answer: past the framework's routing and middleware, a tenth of their time.

Those endpoints read their requests and make their responses themselves. What middleware does for them is done here.
"""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
Told = Callable[[Request, Exception], Awaitable[Response]]
"""What is answered instead where an endpoint fails."""


class DirectPath:
    """An ASGI application in front of another.

    Args:
        app: Answers everything else.
        endpoints: By path; they are asked by POST.
        told: By kind of error; the first that fits.
        broken: For any other error: a bug, which is left to the server to log.
    """

    def __init__(
        self, app: FastAPI, endpoints: Mapping[str, Endpoint], told: Mapping[type[Exception], Told], broken: Told
    ) -> None:
        self.app, self.endpoints, self.told, self.broken = app, endpoints, told, broken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self.endpoints.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        scope["app"] = self.app
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except tuple(self.told) as error:
            told = next(told for kind, told in self.told.items() if isinstance(error, kind))
            response = await told(request, error)
        except Exception as error:
            await (await self.broken(request, error))(scope, receive, send)
            raise
        await response(scope, receive, send)
