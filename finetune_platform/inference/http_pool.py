"""Connections to servers, kept for the next request: HTTP/1.1 with as little between a gateway and its model as can be.

A general client costs a gateway a fifth of its time (decision 0015). This one posts JSON and reads the answer: no
redirects, no cookies, no compression, no proxies. What a connection does with bytes is in `http_connection.py`.
"""

import asyncio
import base64
import socket
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from finetune_platform.inference.http_connection import Connection, Response

IDLE_S = 4.0
"""Uvicorn, which vLLM runs on, drops a connection after 5 idle seconds: it is let go of before that."""

MAX_TARGETS = 1000
"""Most addresses whose first lines are kept."""

IN_A_PATH = "/%:@!$&'()*+,;=~-._"


class CannotConnect(OSError):
    """No connection, and trying again would not help: the name is unknown or the certificate wrong."""


class ConnectTimeout(OSError):
    """The server took too long to accept a connection."""


class Place(NamedTuple):
    """Where connections lead to."""

    tls: bool
    host: str
    port: int


class _Target(NamedTuple):
    """What every request to one address begins with."""

    place: Place
    head: bytes


class HttpPool:
    """Sends requests over connections that it keeps; used from the thread of one event loop.

    Args:
        headers: Sent with every request; values of one line.
        connect_s: Longest time to open a connection.
        silence_s: Longest time until an answer begins.
        max_connections: Most open at a time, to all servers together. A request beyond them waits.
    """

    def __init__(self, headers: Mapping[str, str], connect_s: float, silence_s: float, max_connections: int) -> None:
        self._headers = dict(headers)
        self._connect_s, self._silence_s = connect_s, silence_s
        self._idle: dict[Place, list[Connection]] = {}
        self._open: dict[Connection, Place] = {}
        self._room = asyncio.Semaphore(max_connections)
        self._targets: dict[tuple[str, str], _Target] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def send(
        self, method: str, url: str, payload: bytes | None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Sends a request; the answer's head has come when this returns. Its `release` must follow.

        Args:
            method: HTTP's.
            url: Absolute.
            payload: The body.
            headers: Besides those of every request; values of one line.

        Raises:
            CannotConnect: The name is unknown, or the certificate is not good.
            ConnectTimeout: The server accepts no connection in time.
            TimeoutError: It accepts one and is silent.
            OSError: It refuses or breaks the connection, or what it sends is no HTTP.
        """
        target = self._targets.get((method, url)) or self._target(method, url)
        request = b"%bContent-Length: %d\r\n%b\r\n%b" % (
            target.head,
            len(payload or b""),
            _lines(headers) if headers else b"",
            payload or b"",
        )
        await self._room.acquire()
        connection: Connection | None = None
        try:
            connection = self._kept(target.place) or await self._connect(target.place)
            response = connection.send(request, self._silence_s)
            await response.head()
        except BaseException:
            if connection is not None:
                connection.abort()
            self._room.release()
            raise
        return response

    def close(self) -> None:
        """Closes all connections; requests under way break off."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._open):
            connection.abort()

    def _free(self, connection: Connection, reusable: bool) -> None:
        self._room.release()
        if not reusable:
            # Where the answer has not ended this ends the server's work on it.
            connection.abort()
            return
        connection.idle_since = connection.loop.time()
        self._idle.setdefault(self._open[connection], []).append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(IDLE_S, self._drop_idle)

    def _kept(self, place: Place) -> Connection | None:
        """The connection used last: those that are not needed grow old."""
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.usable and connection.loop.time() - connection.idle_since < IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, place: Place) -> Connection:
        loop = asyncio.get_running_loop()
        if place.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._lost, self._free),
                    place.host,
                    place.port,
                    ssl=self._tls if place.tls else None,
                )
        except TimeoutError as error:
            raise ConnectTimeout(f"no connection within {self._connect_s:g} s") from error
        except (OSError, UnicodeError) as error:
            if isinstance(error, ssl.SSLCertVerificationError | UnicodeError) or _is_unknown_name(error):
                raise CannotConnect(str(error)) from error
            raise
        self._open[connection] = place
        return connection

    def _lost(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    def _drop_idle(self) -> None:
        loop = asyncio.get_running_loop()
        for idle in self._idle.values():
            for connection in [c for c in idle if not c.usable or loop.time() - c.idle_since >= IDLE_S]:
                idle.remove(connection)
                connection.abort()
        left = any(self._idle.values())
        self._sweep = loop.call_later(IDLE_S / 4, self._drop_idle) if left else None

    def _target(self, method: str, url: str) -> _Target:
        """Raises OSError where the address is none."""
        parts = urlsplit(url)
        try:
            host = (parts.hostname or "").encode("idna").decode()
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise CannotConnect(f"the address is none: {error}") from error
        path = quote(parts.path or "/", safe=IN_A_PATH) + (
            f"?{quote(parts.query, safe=IN_A_PATH + '?')}" * bool(parts.query)
        )
        named = f"[{host}]" if ":" in host else host
        headers = {"Host": named if parts.port is None else f"{named}:{port}", **self._headers}
        if parts.username is not None and "Authorization" not in headers:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        head = f"{method} {path} HTTP/1.1\r\n".encode("ascii") + _lines(headers)
        target = _Target(Place(parts.scheme == "https", host, port), head)
        if len(self._targets) < MAX_TARGETS:
            self._targets[method, url] = target
        return target


def _is_unknown_name(error: OSError) -> bool:
    return isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
