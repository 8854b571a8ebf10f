"""A model server in a process of its own: adapters as vLLM takes them, answers that name who gave them, faults as told.

    with StandIn(folder) as server: server.behave("ad-1", manner="reset")

`python vllm_stand_in.py PORT` is the server itself. It knows the base model as `base`. A control request changes how a
model behaves from the next request on; `asked` tells what came. `URL/NAME/v1` is the same server at another address: an
engine, and a circuit breaker, of its own.
"""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

BASE = "base"
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
STATUSES = {"refusing": 400, "failing": 500, "unavailable": 503}
GARBAGE = b"\x00\xff<html>}{ not what was asked for" * 8


@dataclass
class Behaviour:
    """How a model answers.

    Attributes:
        manner: `answer`; `refusing` (400); `failing` (500); `unavailable` (503); `hang`; `reset` (closed without a
            word); `malformed` (JSON that is no answer); `garbage` (bytes that are nothing); `break_off` (closed in the
            middle).
        pause_s: Before the first byte.
        pieces: Of a streamed answer.
        piece_s: Between two of them.
    """

    manner: str = "answer"
    pause_s: float = 0.0
    pieces: int = 3
    piece_s: float = 0.0


class StandIn:
    """The server seen from a test."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"stand_in_{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "StandIn":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, __file__, str(self.port)], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.asked()
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def behave(self, model: str, **changes: Any) -> None:
        """How `model` answers from now on; what is not named is as usual."""
        self._control({"model": model, "behaviour": asdict(Behaviour(**changes))})

    def asked(self) -> Counter[str]:
        """Requests by model, since the start."""
        return Counter(self._control({})["asked"])

    def headers(self) -> list[dict[str, str]]:
        """Headers of the requests, in the order in which they came, with `x-model`."""
        return list(self._control({})["headers"])

    def _control(self, told: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/control", json.dumps(told).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found


@dataclass
class _Server:
    adapters: dict[str, str] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def control(self, request: web.Request) -> web.Response:
        told = json.loads(await request.read())
        if told:
            self.behaviours[told["model"]] = Behaviour(**told["behaviour"])
        return web.json_response({"asked": self.asked, "headers": self.headers})

    async def models(self, request: web.Request) -> web.Response:
        adapters = [{"id": name, "parent": BASE} for name in self.adapters]
        return web.json_response({"object": "list", "data": [{"id": BASE, "parent": None}, *adapters]})

    async def load(self, request: web.Request) -> web.Response:
        told = json.loads(await request.read())
        assert Path(told["lora_path"], "adapter_config.json").is_file()
        self.adapters[told["lora_name"]] = told["lora_path"]
        return web.Response(text="Success")

    async def unload(self, request: web.Request) -> web.Response:
        self.adapters.pop(json.loads(await request.read())["lora_name"], None)
        return web.Response(text="Success")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        model = body["model"]
        self.asked[model] += 1
        if len(self.headers) < 100:
            self.headers.append({"x-model": model, **{k.lower(): v for k, v in request.headers.items()}})
        if model not in (BASE, *self.adapters):
            return web.json_response({"error": {"message": f"The model `{model}` does not exist."}}, status=404)
        how = self.behaviours.get(model, Behaviour())
        await asyncio.sleep(3600 if how.manner == "hang" else how.pause_s)
        if how.manner in STATUSES:
            return web.json_response({"error": {"message": "no"}}, status=STATUSES[how.manner])
        if how.manner == "malformed":
            return web.json_response({"id": "x", "choices": [{"index": 0}]})
        if how.manner == "garbage":
            return web.Response(body=GARBAGE, content_type="application/json")
        if how.manner == "reset":
            return self._cut(request)
        return await (self._stream(request, model, how) if body.get("stream") else self._whole(request, model, how))

    async def _whole(self, request: web.Request, model: str, how: Behaviour) -> web.StreamResponse:
        message = {"role": "assistant", "content": f"card by {model}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "usage": USAGE}
        raw = json.dumps({**answer, "choices": [choice]}).encode()
        if how.manner != "break_off":
            return web.Response(body=raw, content_type="application/json")
        headers = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(raw[: len(raw) // 2])
        return self._cut(request)

    async def _stream(self, request: web.Request, model: str, how: Behaviour) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(how.pieces):
            await response.write(_event(model, {"content": f"card by {model}, piece {number}. "}))
            await asyncio.sleep(how.piece_s)
            if how.manner == "break_off" and number == how.pieces // 2:
                return self._cut(request)
        await response.write(_event(model, {}, "stop"))
        await response.write(_event(model, None) + b"data: [DONE]\n\n")
        return response

    def _cut(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


def _event(model: str, delta: dict[str, str] | None, finish: str | None = None) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices}
    return b"data: " + json.dumps(chunk if delta is not None else {**chunk, "usage": USAGE}).encode() + b"\n\n"


if __name__ == "__main__":
    server = _Server()
    app = web.Application()
    app.router.add_post("/control", server.control)
    for first in ("", "/{engine}"):
        app.router.add_get(f"{first}/v1/models", server.models)
        app.router.add_post(f"{first}/v1/load_lora_adapter", server.load)
        app.router.add_post(f"{first}/v1/unload_lora_adapter", server.unload)
        app.router.add_post(f"{first}/v1/chat/completions", server.chat)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, shutdown_timeout=0.1)
