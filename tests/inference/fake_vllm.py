"""A small server with vLLM's endpoints for adapters, its error texts and its traps: a restart forgets adapters.

Statuses and texts are those of vLLM 0.32. The real one is driven in test_vllm_real.py.
"""

import asyncio
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

BASE = "smollm2"


class FakeVllm:
    """A server whose answers name the folder that the model was loaded from.

    Attributes:
        loads: Names loaded since it was made, restarts included.
        asked: Models asked for that it answered.
        not_found: Models asked for that it did not have.
        torn: Answers whose adapter was unloaded while they were made.
        pause_s: How long an answer takes.
        runtime_loading: Whether it was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING.
        impostor: The name that it answers under, whatever was asked.
        deaf: Says that it loaded an adapter, without doing so.
    """

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.asked: list[str] = []
        self.not_found: list[str] = []
        self.torn: list[str] = []
        self.pause_s = 0.0
        self.deaf = False
        self.runtime_loading = True
        self.impostor: str | None = None
        self.adapters: dict[str, str] = {}
        self._runner: web.AppRunner | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.adapters = {}
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> "FakeVllm":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _models(self, request: web.Request) -> web.Response:
        base = {"id": BASE, "object": "model", "root": "/models/base", "parent": None}
        adapters = [{"id": n, "object": "model", "root": p, "parent": BASE} for n, p in self.adapters.items()]
        return web.json_response({"object": "list", "data": [base, *adapters]})

    async def _load(self, request: web.Request) -> web.Response:
        if not self.runtime_loading:
            return web.json_response({"detail": "Not Found"}, status=404)
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not Path(path, "adapter_config.json").exists():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}")
        if json.loads(Path(path, "adapter_config.json").read_text())["r"] > 16:
            return _error(500, "Call to add_lora method failed: LoRA rank 64 is greater than max_lora_rank 16.")
        await asyncio.sleep(0.01)
        self.loads.append(name)
        if not self.deaf:
            self.adapters[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = body["model"]
        if model != BASE and model not in self.adapters:
            self.not_found.append(model)
            return _error(404, f"The model `{model}` does not exist.")
        self.asked.append(model)
        path = self.adapters.get(model, "base")
        await asyncio.sleep(self.pause_s)
        if model != BASE and model not in self.adapters:
            self.torn.append(model)
        common: dict[str, Any] = {"id": "x", "created": 1, "model": self.impostor or model}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": Path(path).name}, "finish_reason": "stop"}
            return web.json_response({**common, "object": "chat.completion", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        said = {"index": 0, "delta": {"content": Path(path).name}, "finish_reason": "stop"}
        for part in ({"choices": [said]}, {"choices": [], "usage": usage}):
            chunk = {**common, "object": "chat.completion.chunk", **part}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)
