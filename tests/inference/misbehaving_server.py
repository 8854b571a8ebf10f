"""An OpenAI-compatible server on this machine that misbehaves on request: the upstream that a user meets.

`async with MisbehavingServer() as server: server.next("reset", "answer")`: the next two requests are treated so, all
others well. Tests of engines use it; what an engine should make of it stands there.
"""

import asyncio
import gzip
import json
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, NamedTuple

from aiohttp import web

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
USAGE_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []} | {
    "usage": ANSWER["usage"]
}
SAYS = "says:"
"""A behaviour that begins so answers, well, what follows."""

HTML = "<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"


def delta(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    said = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": said, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


CHUNKS = [delta(""), delta("Par"), delta("is."), delta(None, "stop")]


def sse(*payloads: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(p).encode() + b"\n\n" for p in payloads)


WHOLE_STREAM = sse(*CHUNKS, USAGE_CHUNK) + b"data: [DONE]\n\n"


class Seen(NamedTuple):
    """One request as the server got it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    port: int


Behaviour = Callable[["MisbehavingServer", web.Request], Awaitable[web.StreamResponse]]


class MisbehavingServer:
    """See the module.

    Attributes:
        seen: Requests, in the order in which they came.
        abandoned: Requests whose caller went away before the answer ended.
        pause_s: How long the slow behaviours wait.
        retry_after: The header that `too_many` sends.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.abandoned = 0
        self.pause_s = 0.5
        self.retry_after = "0.2"
        self.usually = "answer"
        self._next: deque[str] = deque()
        self._runner: web.AppRunner | None = None
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next(self, *behaviours: str) -> None:
        self._next.extend(behaviours)

    async def __aenter__(self) -> "MisbehavingServer":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        assert request.transport is not None
        port = request.transport.get_extra_info("peername")[1]
        self.seen.append(Seen(request.path, dict(request.headers), body, port))
        name = self._next.popleft() if self._next else self.usually
        try:
            if name.startswith(SAYS):
                said = {"index": 0, "message": {"role": "assistant", "content": name.removeprefix(SAYS)}}
                return web.json_response(ANSWER | {"choices": [said]})
            if name == "answer" and body.get("stream"):
                name = "stream"
            return await BEHAVIOURS[name](self, request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.abandoned += 1
            raise


async def _respond(request: web.Request, *pieces: bytes, pause_s: float = 0.0, kind: str = "text/event-stream") -> Any:
    response = web.StreamResponse(headers={"Content-Type": kind})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
        if pause_s:
            await asyncio.sleep(pause_s)
    return response


def _raw(text: str | bytes, kind: str = "application/json", status: int = 200) -> Behaviour:
    async def answer(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
        raw = text.encode() if isinstance(text, str) else text
        return web.Response(body=raw, status=status, content_type=kind)

    return answer


def _streamed(*pieces: bytes) -> Behaviour:
    async def answer(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
        return await _respond(request, *pieces)

    return answer


async def _slow(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(server.pause_s)
    return await BEHAVIOURS["stream" if server.seen[-1].body.get("stream") else "answer"](server, request)


async def _hang(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def _hang_after_headers(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    return await _respond(request, b": wait\n\n", pause_s=60)


async def _hang_after_chunk(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    return await _respond(request, sse(CHUNKS[0], CHUNKS[1]), pause_s=60)


async def _drip(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    if server.seen[-1].body.get("stream"):
        begun = len(sse(CHUNKS[0], CHUNKS[1]))
        rest = (bytes([b]) for b in WHOLE_STREAM[begun:])
        return await _respond(request, WHOLE_STREAM[:begun], *rest, pause_s=0.01)
    raw = json.dumps(ANSWER).encode() + b" " * 10_000
    return await _respond(request, *(bytes([b]) for b in raw), pause_s=0.01, kind="application/json")


async def _stream_ends_late(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    return await _respond(request, WHOLE_STREAM, pause_s=0.01)


async def _reset(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _reset_within_answer(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"id": ')
    return await _reset(server, request)


async def _reset_after_chunk(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    await _respond(request, sse(CHUNKS[0], CHUNKS[1]), pause_s=0.05)
    return await _reset(server, request)


async def _too_many(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    headers = {"Retry-After": server.retry_after}
    return web.json_response({"error": {"message": "rate limit"}}, status=429, headers=headers)


async def _huge(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    return await _respond(request, *[b" " * 2**20] * 64, kind="application/json")


async def _huge_event(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    return await _respond(request, b"data: ", *[b"x" * 2**20] * 64)


async def _compressed(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    raw = gzip.compress(json.dumps(ANSWER).encode())
    return web.Response(body=raw, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})


async def _elsewhere(server: MisbehavingServer, request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect(f"{server.url}/elsewhere")


def _error(status: int, message: str) -> Behaviour:
    return _raw(json.dumps({"error": {"message": message, "type": "x", "code": status}}), status=status)


def _with(**changes: Any) -> str:
    return json.dumps(ANSWER | changes)


MALFORMED = {
    "not_json": _raw('{"id": "chatcmpl-1", "choices": [{'),
    "empty": _raw(""),
    "html": _raw(HTML, "text/html"),
    "array": _raw("[]"),
    "number": _raw("1"),
    "no_choices": _raw(json.dumps({"id": "x", "object": "chat.completion"})),
    "empty_choices": _raw(_with(choices=[])),
    "choices_of_text": _raw(_with(choices=["Paris."])),
    "no_message": _raw(_with(choices=[{"index": 0}])),
    "content_number": _raw(_with(choices=[{"index": 0, "message": {"role": "assistant", "content": 7}}])),
    "tool_calls_text": _raw(_with(choices=[{"index": 0, "message": {"content": None, "tool_calls": "f()"}}])),
    "index_text": _raw(_with(choices=[{"index": [], "message": {"content": "Paris."}}])),
    "usage_text": _raw(_with(usage="7 tokens")),
    "usage_negative": _raw(_with(usage={"prompt_tokens": -1, "completion_tokens": 2})),
    "error_with_200": _raw(json.dumps({"error": {"message": "out of memory"}})),
    "latin1": _raw(_with(id="X").encode().replace(b"X", b"\xe9")),
    "nested": _raw("[" * 100_000),
    "huge": _huge,
    "compressed": _compressed,
    "reset_within_answer": _reset_within_answer,
}

MALFORMED_STREAMS = {
    "stream_html": _raw(HTML, "text/html"),
    "stream_as_json": _raw(json.dumps(ANSWER)),
    "stream_wrong_type": _raw(WHOLE_STREAM, "text/plain"),
    "stream_empty": _streamed(b""),
    "stream_only_done": _streamed(b"data: [DONE]\n\n"),
    "stream_only_usage": _streamed(sse(USAGE_CHUNK) + b"data: [DONE]\n\n"),
    "stream_not_json": _streamed(b"data: Paris.\n\n"),
    "stream_choice_text": _streamed(sse({"choices": ["Paris."]})),
    "stream_no_delta": _streamed(sse({"choices": [{"index": 0}]})),
    "stream_error_first": _streamed(sse({"error": {"message": "out of memory", "code": 500}})),
    "stream_error_event": _streamed(b'event: error\ndata: {"message": "out of memory"}\n\n'),
    "stream_huge_event": _huge_event,
}

BROKEN_OFF = {
    "stream_truncated": _streamed(sse(CHUNKS[0], CHUNKS[1])),
    "stream_truncated_within": _streamed(WHOLE_STREAM[: len(sse(CHUNKS[0], CHUNKS[1])) + 20]),
    "stream_error_later": _streamed(sse(CHUNKS[0], CHUNKS[1], {"error": {"message": "engine dead"}})),
    "stream_garbage_later": _streamed(sse(CHUNKS[0], CHUNKS[1]) + b"data: <html>\n\n"),
    "reset_after_chunk": _reset_after_chunk,
    "hang_after_chunk": _hang_after_chunk,
}

BEHAVIOURS: dict[str, Behaviour] = {
    "answer": _raw(json.dumps(ANSWER)),
    "answer_without_usage": _raw(json.dumps({k: v for k, v in ANSWER.items() if k != "usage"})),
    "stream": _streamed(WHOLE_STREAM),
    "stream_ends_late": _stream_ends_late,
    "stream_without_usage": _streamed(sse(*CHUNKS) + b"data: [DONE]\n\n"),
    "stream_without_done": _streamed(sse(*CHUNKS, USAGE_CHUNK)),
    "stream_azure": _streamed(
        b": ping\r\n\r\n" + sse({"choices": [], "prompt_filter_results": []}).replace(b"\n", b"\r\n") + WHOLE_STREAM
    ),
    "slow": _slow,
    "hang": _hang,
    "hang_after_headers": _hang_after_headers,
    "drip": _drip,
    "reset": _reset,
    "too_many": _too_many,
    "redirect": _elsewhere,
    "bad_request": _error(400, "temperature must be in [0, 2]\nINFO forged line, key sk-abcdef0123456789abcdef"),
    "bad_key": _error(401, "Incorrect API key provided: sk-abcdef0123456789abcdef"),
    "unknown_model": _error(404, "The model `m` does not exist."),
    "failing": _error(500, "internal"),
    "bad_gateway": _raw(HTML, "text/html", 502),
    "unavailable": _error(503, "loading"),
    "gateway_timeout": _error(504, "slow"),
    **MALFORMED,
    **MALFORMED_STREAMS,
    **BROKEN_OFF,
}
