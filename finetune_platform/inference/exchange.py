"""One request to one server over HTTP: connections, time-outs, and what each way to fail means.

Reading a streamed answer belongs in `streaming.py`. Nothing is tried again here: `dispatch.py` does that, by what
`AttemptFailed` says.
"""

import asyncio
import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from finetune_platform.inference import answers
from finetune_platform.inference.chat import EngineError
from finetune_platform.inference.http_connection import NotHttp, Response
from finetune_platform.inference.http_pool import CannotConnect, ConnectTimeout, HttpPool
from finetune_platform.inference.trace_context import TRACE_HEADERS

MAX_ANSWER_BYTES = 16 * 2**20
MAX_ERROR_BYTES = 64 * 2**10


class Timeouts(NamedTuple):
    """Seconds that an engine waits.

    Attributes:
        total_s: For a whole answer, all tries and pauses included.
        connect_s: For a connection.
        first_byte_s: For the first byte of an answer once the request is sent. A server sends nothing of an answer
            that is not streamed before it is finished.
        silence_s: For the next piece of a stream.
    """

    total_s: float
    connect_s: float = 3.0
    first_byte_s: float = math.inf
    silence_s: float = 30.0


class AttemptFailed(EngineError):
    """One server gave no answer.

    Args:
        status: The HTTP status that tells a caller of it.
        message: For the log.
        again: Whether asking again is safe: nothing of an answer came.
        ok: Whether the server did its part all the same; None where that says nothing about its health.
        server_status: What the server answered; None: nothing.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        again: bool = False,
        ok: bool | None = False,
        server_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(status, message, retry_after_s)
        self.again = again
        self.ok = ok
        self.server_status = server_status

    @property
    def unreachable(self) -> bool:
        """Whether the server may be down: it refused or broke a connection without a word."""
        return self.again and self.server_status is None


class Http:
    """Pooled connections to the servers of one engine, opened on first use (that must be inside the event loop)."""

    def __init__(self, api_key: str | None, timeouts: Timeouts, max_connections: int = 512) -> None:
        self.api_key = api_key
        self.timeouts = timeouts
        self.max_connections = max_connections
        self._pool: HttpPool | None = None

    async def ask(self, name: str, url: str, payload: bytes) -> dict[str, Any]:
        """Posts a request; the whole, checked answer.

        Raises:
            AttemptFailed: There is none.
        """
        response = await self.post(name, url, payload)
        try:
            raw = await self._read(name, response, MAX_ANSWER_BYTES)
            return answers.completion(raw)
        except EngineError as error:
            raise _as_attempt(name, error) from error
        finally:
            response.release()

    async def post(self, name: str, url: str, payload: bytes) -> Response:
        """Posts JSON; the response with its body unread, which the caller must release.

        Raises:
            AttemptFailed: The server cannot be reached, is silent, or answered another status than 200.
        """
        response = await self._send(name, "POST", url, payload)
        if response.status == 200 and response.headers.get("content-encoding", "identity") == "identity":
            return response
        if response.status == 200:
            response.release()
            raise AttemptFailed(502, f"{name} compresses its answers, which it was asked not to", server_status=200)
        try:
            raw = await self._read(name, response, MAX_ERROR_BYTES)
        finally:
            response.release()
        raise refused(name, response.status, answers.error_text(raw, self.api_key), response.headers.get("retry-after"))

    async def call(self, name: str, method: str, url: str, payload: bytes | None, limit_s: float) -> tuple[int, bytes]:
        """Status and body of a request that is no chat; within `limit_s`.

        Raises:
            AttemptFailed: The server does not answer.
        """
        try:
            async with asyncio.timeout(limit_s):
                response = await self._send(name, method, url, payload)
                try:
                    return response.status, await self._read(name, response, MAX_ANSWER_BYTES)
                finally:
                    response.release()
        except TimeoutError as error:
            raise AttemptFailed(504, f"{name} took longer than {limit_s:g} s") from error

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    async def _send(self, name: str, method: str, url: str, payload: bytes | None) -> Response:
        if self._pool is None:
            self._pool = self._opened()
        try:
            return await self._pool.send(method, url, payload, TRACE_HEADERS.get())
        except ConnectTimeout as error:
            raise AttemptFailed(504, f"{name} accepts no connection", again=True) from error
        except TimeoutError as error:
            raise AttemptFailed(504, f"{name} is silent") from error
        except CannotConnect as error:
            raise AttemptFailed(502, f"{name} cannot be reached: {reason(error)}") from error
        except NotHttp as error:
            raise AttemptFailed(502, f"{name} does not speak HTTP: {reason(error)}") from error
        except OSError as error:
            raise AttemptFailed(502, f"{name} cannot be reached: {reason(error)}", again=True) from error

    def _opened(self) -> HttpPool:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        first_byte_s = min(self.timeouts.first_byte_s, self.timeouts.total_s)
        return HttpPool(headers, self.timeouts.connect_s, first_byte_s, self.max_connections)

    async def _read(self, name: str, response: Response, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := await response.read():
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise AttemptFailed(502, f"{name} answered more than {limit} bytes")
        except OSError as error:
            raise AttemptFailed(502, f"{name} broke its answer off: {reason(error)}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def refused(name: str, status: int, text: str, retry_after: str | None) -> AttemptFailed:
    """What a status other than 200 means.

    Args:
        name: The server.
        status: Its status.
        text: Its words, cleaned by `answers.error_text`.
        retry_after: Its `Retry-After` header.
    """
    said = f"{name} answered {status}: {text}"
    if status in (400, 413, 422):
        return AttemptFailed(400, text or "the server refuses the request", ok=True, server_status=status)
    if status in (401, 403):
        return AttemptFailed(502, f"{name} refuses our key ({status}): {text}", server_status=status)
    if status == 404:
        # The server is well, it only knows no such model, and nothing was computed.
        return AttemptFailed(502, said, again=True, ok=None, server_status=status)
    pause = _seconds(retry_after)
    if status == 429:
        return AttemptFailed(429, said, again=True, ok=None, server_status=status, retry_after_s=pause)
    if status in (502, 503, 504, 529):
        ours = 503 if status == 529 else status
        return AttemptFailed(ours, said, again=True, server_status=status, retry_after_s=pause)
    return AttemptFailed(504 if status == 408 else 502, said, server_status=status)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds, whether a number or a date; None where it is neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            when = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _as_attempt(name: str, error: EngineError) -> AttemptFailed:
    if isinstance(error, AttemptFailed):
        return error
    return AttemptFailed(error.status, f"{name}: {error.message}")


def reason(error: Exception) -> str:
    """An exception in a few words, which some of them lack."""
    return str(error)[:200] or type(error).__name__
