"""`finetune serve` as a process on an installation of its own, and clients that ask it on and on.

For what a gateway inside the test's own process cannot show: its death, and what is left of it.
"""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import aiohttp
import requests
import yaml

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.serving.keys import create_key
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

READY_S = 60.0
RETRY_S = 0.05
"""How soon a client whose gateway is gone tries again."""


class GatewayProcess:
    """A gateway that can be killed and started again at the same address."""

    def __init__(self, folder: Path, lake_url: str = "", database_url: str = "") -> None:
        self.folder = folder
        self.place = Settings(
            finetune_home=folder / "home",
            lake_url=lake_url,
            database_url=database_url,
            tasks_dir=folder / "tasks",
        )
        self.place.tasks_dir.mkdir()
        self.database, self.lake = Database(self.place.database_url), Lake(self.place.lake_url)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def task(self, name: str, upstream: str, **sections: Any) -> Task:
        """Adds a task whose adapters run on `upstream`, as does its base model; everything is logged."""
        engines = {
            "engine": {"kind": "vllm", "urls": [upstream]},
            "base": {"kind": "openai", "urls": [upstream], "model": "base"},
            "log_share": 1.0,
        }
        file = {
            "name": name,
            "description": "Names the topic of a support ticket.",
            "base_model": "./none",
            "system_prompt": "Name the topic.",
            "baseline_prompt": "Answer with the topic of this support ticket.",
            "sources": [{"uri": "none.jsonl", "format": "messages"}],
            **sections,
            "serving": {**engines, **sections.get("serving", {})},
        }
        path = self.place.tasks_dir / f"{name}.yaml"
        path.write_text(yaml.safe_dump(file), encoding="utf-8")
        return load_task(path)

    def key(self, role: str) -> str:
        """A key for all tasks."""
        made, _ = create_key(
            self.database, name="test", roles=[role], tasks=["*"], known_tasks=[], tenant="", actor="test"
        )
        return made

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        place = self.place
        environment = {
            "FINETUNE_HOME": str(place.finetune_home),
            "LAKE_URL": place.lake_url,
            "DATABASE_URL": place.database_url,
            "TASKS_DIR": str(place.tasks_dir),
        }
        command = [sys.executable, "-m", "finetune_platform.cli", "serve", "--port", str(self.port)]
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        while not self._ready():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to the gateway itself, not to what it started."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ends it in good order."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def log(self) -> str:
        """The end of what it printed."""
        return (self.folder / "gateway.log").read_text(encoding="utf-8")[-4000:]

    def ask(self, key: str, task: str, **changes: Any) -> requests.Response:
        body = {"model": task, "messages": [{"role": "user", "content": "My card was declined."}], **changes}
        return requests.post(f"{self.url}/v1/chat/completions", json=body, headers=_bearer(key), timeout=60)

    def operate(self, key: str, task: str, action: str) -> requests.Response:
        body = {"reason": "it does harm"}
        url = f"{self.url}/operator/v1/tasks/{task}/{action}"
        return requests.post(url, json=body, headers=_bearer(key), timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values with these labels."""
        lines = requests.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in found if all(want in line for want in wanted))

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False


class Answer(NamedTuple):
    """One that a client got whole; times are `time.monotonic()`."""

    interaction_id: str
    adapter: str
    text: str
    streamed: bool
    began: float
    ended: float


class Piece(NamedTuple):
    """A part of a streamed answer, whole or broken off later."""

    adapter: str
    came: float


class Load:
    """Clients that ask as long as the block lasts, each on a connection of its own; at its end they finish.

    Args:
        asking: What else stands in their requests.

    Attributes:
        answers: What they got whole with status 200.
        pieces: Of streamed answers.
        broken: Streamed answers that ended with an error, or without an end.
        statuses: Of the answers that were none.
        unreachable: How often the gateway was not there, or went.
    """

    def __init__(
        self,
        gateway: GatewayProcess,
        key: str,
        tasks: Sequence[str],
        clients: int = 6,
        streamed: float = 0.3,
        **asking: Any,
    ) -> None:
        self._gateway, self._tasks, self._clients, self._streamed = gateway, tasks, clients, streamed
        self._headers, self._asking = _bearer(key), asking
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.answers: list[Answer] = []
        self.pieces: list[Piece] = []
        self.broken = 0
        self.statuses: list[int] = []
        self.unreachable = 0

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def wait_for(self, answers: int, at_most_s: float = 60.0) -> None:
        """Waits for so many more answers."""
        target, deadline = len(self.answers) + answers, time.monotonic() + at_most_s
        while len(self.answers) < target:
            assert time.monotonic() < deadline, f"{len(self.answers)} of {target} answers came"
            time.sleep(0.02)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(self._clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        dice = random.Random(number)
        while not self._ending.is_set():
            try:
                await self._ask(session, dice)
            except (aiohttp.ClientError, OSError):
                self.unreachable += 1
                await asyncio.sleep(RETRY_S)

    async def _ask(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        streamed = dice.random() < self._streamed
        content = f"My card was declined, case {dice.randrange(10**9)}."
        body = {"model": dice.choice(self._tasks), "messages": [{"role": "user", "content": content}]}
        body |= self._asking
        began = time.monotonic()
        url = f"{self._gateway.url}/v1/chat/completions"
        async with session.post(url, json={**body, "stream": streamed}, headers=self._headers) as answer:
            if answer.status != 200:
                self.statuses.append(answer.status)
                await asyncio.sleep(RETRY_S)
                return
            adapter = answer.headers["x-finetune-adapter"]
            text = await (self._stream(answer, adapter) if streamed else _whole(answer))
            if text is None:
                self.broken += 1
                return
            found = answer.headers["x-finetune-interaction"]
            self.answers.append(Answer(found, adapter, text, streamed, began, time.monotonic()))

    async def _stream(self, answer: aiohttp.ClientResponse, adapter: str) -> str | None:
        pieces: list[str] = []
        try:
            async for line in answer.content:
                if line.startswith(b"data: [DONE]"):
                    return "".join(pieces)
                if line.startswith(b"data: "):
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        return None
                    self.pieces.append(Piece(adapter, time.monotonic()))
                    pieces += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
        except aiohttp.ClientError:
            self.broken += 1
            raise
        return None


class Proxy:
    """A way to a server that can be cut: then connections are refused and those that stand are broken."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._loop = asyncio.new_event_loop()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._listening: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._do(self._listen())

    @contextmanager
    def cut(self) -> Iterator[None]:
        """The server is away while the block lasts."""
        self._do(self._cut())
        try:
            yield
        finally:
            self._do(self._listen())

    def _do(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self) -> None:
        self._listening = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port, reuse_address=True)

    async def _cut(self) -> None:
        assert self._listening is not None
        self._listening.close()
        for writer in self._open:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
        both = {writer, back}
        self._open |= both
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            self._open -= both


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _whole(answer: aiohttp.ClientResponse) -> str:
    return str((await answer.json())["choices"][0]["message"]["content"])


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
