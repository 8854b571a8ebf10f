"""A load generator that costs little: it shares the processors with what it measures. Open loop, HTTP/1.1, keep-alive.

Requests are sent at random moments whether earlier ones are answered or not, and timed from the moment they were due:
neither a slow answer nor a late sender can hide a slow server.
"""

import asyncio
import random
import time
from urllib.parse import urlsplit

import httptools


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, free: list["Connection"]) -> None:
        self._free = free
        self._waiting: asyncio.Future[int] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._keeps = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[int]":
        """The status of the whole answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        assert self._parser is not None
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._keeps = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        assert self._parser is not None and self._waiting is not None
        self._waiting.set_result(self._parser.get_status_code())
        if self._keeps:
            self._free.append(self)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._free:
            self._free.remove(self)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(0)


async def load(url: str, key: str, body: bytes, rate: float, seconds: float) -> tuple[list[float], int]:
    """Posts `body` at a mean `rate` a second.

    Returns:
        Milliseconds of every answer with status 200, and how many requests had none.
    """
    place = urlsplit(url)
    head = (
        f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    loop = asyncio.get_running_loop()
    free: list[Connection] = []
    times: list[float] = []
    failed = 0

    async def one(due: float) -> None:
        nonlocal failed
        if free:
            connection = free.pop()
        else:
            _, connection = await loop.create_connection(lambda: Connection(free), place.hostname, place.port)
        status = await connection.ask(request)
        if status == 200:
            times.append(1000 * (time.perf_counter() - due))
        else:
            failed += 1

    arrivals = random.Random(0)
    due = time.perf_counter()
    end = due + seconds
    tasks: list[asyncio.Task[None]] = []
    while due < end:
        due += arrivals.expovariate(rate)
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    for connection in list(free):
        connection.transport.close()
    return times, failed
