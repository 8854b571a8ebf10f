"""A real OpenAI-compatible server on 127.0.0.1 that repeats what it is asked and remembers who asked what."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TELL = "tell me your key"
"""A prompt that makes it refuse the key, which it repeats."""

WAIT = "wait"
"""A prompt that takes half a second."""

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Heard(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class EchoUpstream:
    """Serves until `stop`; `heard` are all requests in order."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST"])])
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.heard.append(Heard(request.url.path, dict(request.headers), body))
        text = str(body["messages"][-1].get("content"))
        if text == TELL:
            told = f"Incorrect API key provided: {request.headers.get('authorization')}"
            return JSONResponse({"error": {"message": told}}, 401, headers={"x-key": "none"})
        if text == WAIT:
            await asyncio.sleep(0.5)
        head = {"id": "x", "created": 1, "model": body["model"]}
        if body.get("stream"):
            return StreamingResponse(_events(head, text), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": USAGE})


async def _events(head: dict[str, Any], text: str) -> AsyncIterator[str]:
    head = {**head, "object": "chat.completion.chunk"}
    for word in text.split(" "):
        yield _event({**head, "choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
        await asyncio.sleep(0.01)
    yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield _event({**head, "choices": [], "usage": USAGE})
    yield "data: [DONE]\n\n"


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
