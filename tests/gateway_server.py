"""A running gateway over real HTTP: the real application, uvicorn, database and log, with engines that tests choose."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from finetune_platform.inference.chat import ChatEngine
from finetune_platform.serving.app import build_app, in_front_of
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.keys import create_key
from finetune_platform.serving.one_packet import OnePacketProtocol
from finetune_platform.serving.server import build_gateway
from finetune_platform.serving.site.site import Site
from finetune_platform.settings import Settings
from finetune_platform.task import Task


@dataclass
class Running:
    """A gateway that answers at `url`."""

    url: str
    gateway: Gateway

    def key(self, *roles: str, tasks: Sequence[str] = ("*",), tenant: str = "", **limits: int) -> str:
        """A fresh key that is in force at once."""
        key, _ = create_key(
            self.gateway.database,
            name="test",
            roles=list(roles) or ["caller"],
            tasks=list(tasks),
            known_tasks=list(self.gateway.tasks),
            tenant=tenant,
            actor="test",
            requests_per_minute=limits.get("requests_per_minute"),
            tokens_per_minute=limits.get("tokens_per_minute"),
        )
        self.gateway.directory.look()
        return key


@contextmanager
def running_gateway(
    place: Settings,
    tasks: Sequence[Task],
    engines: Mapping[str, ChatEngine],
    site_of: Callable[[Gateway], Site] | None = None,
) -> Iterator[Running]:
    """Serves until the block ends; `site_of` adds a place for people."""
    gateway = build_gateway(place, tasks, lambda line: None, engines)
    config = uvicorn.Config(
        in_front_of(build_app(gateway, [site_of(gateway)] if site_of else [])),
        host="127.0.0.1",
        port=0,
        log_level="warning",
        lifespan="on",
        http=OnePacketProtocol,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the gateway did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", gateway)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
