"""One HTTP/1.1 connection to a server, and the answer that comes over it piece by piece.

Bytes are taken apart by httptools, the parser that uvicorn stands on. Which connection carries which request, and how
one is opened, is `http_pool.py`'s; what a status means, `exchange.py`'s.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import httptools

MAX_OVERHEAD_BYTES = 64 * 2**10
"""Most bytes of a head, and of whatever else stands between two pieces of a body: no parser bounds them."""

HIGH_WATER_BYTES = 2**20
"""Unread bytes of an answer at which its server has to wait."""


class BrokenOff(OSError):
    """The connection ended before the answer did."""


class NoAnswer(BrokenOff):
    """The connection ended before the first byte of an answer."""


class NotHttp(OSError):
    """What came is no HTTP."""


class Connection(asyncio.Protocol):
    """Carries one request at a time.

    Args:
        lost: Told when the connection is closed, by whichever side.
        freed: Told when an answer is released, and whether the connection can carry another request.

    Attributes:
        idle_since: When its last answer ended, on the event loop's clock.
        parser: Takes the answer apart that is under way.
    """

    def __init__(self, lost: Callable[["Connection"], None], freed: Callable[["Connection", bool], None]) -> None:
        self.idle_since = 0.0
        self.parser: httptools.HttpResponseParser | None = None
        self.loop = asyncio.get_running_loop()
        self._lost, self._freed = lost, freed
        self._response: Response | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._response is None and not self._transport.is_closing()

    def send(self, request: bytes, silence_s: float) -> "Response":
        """Sends a whole request.

        Args:
            request: Head and body.
            silence_s: How long the answer may take to begin.

        Returns:
            The answer to come.
        """
        response = self._response = Response(self)
        self.parser = httptools.HttpResponseParser(response)
        self._timer = self.loop.call_later(silence_s, self._silent)
        self._transport.write(request)
        return response

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None or self.parser is None:
            # Nobody asked. What stands here now would be taken for the answer to the next request.
            self.abort()
            return
        self.heard()
        pieces = response.pieces_seen
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            response.fail(NotHttp("it switches protocols unasked"))
        except httptools.HttpParserError as error:
            response.fail(NotHttp(str(error) or type(error).__name__))
        else:
            response.overhead = 0 if response.pieces_seen != pieces else response.overhead + len(data)
            if response.overhead > MAX_OVERHEAD_BYTES and not response.ended:
                response.fail(
                    NotHttp(f"more than {MAX_OVERHEAD_BYTES} bytes came that are no part of an answer's body")
                )

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard()
        if self._response is not None:
            self._response.connection_ended(exc)
        self._lost(self)

    def heard(self) -> None:
        """The server is not silent, or need not speak."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def free(self, reusable: bool) -> None:
        """The answer is not wanted any more."""
        self.heard()
        # The parser and the answer know each other: left alone they would be the garbage collector's work.
        self._response = self.parser = None
        self._freed(self, reusable)

    def abort(self) -> None:
        """Closes without a word more."""
        self._transport.abort()

    def pause(self) -> None:
        """Lets the server wait."""
        self._transport.pause_reading()

    def go_on(self) -> None:
        """Lets the server send again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _silent(self) -> None:
        if self._response is not None:
            self._response.fail(TimeoutError("the server is silent"))


class Response:
    """An answer: its head once `head` is over, its body in pieces. `release` gives its connection back.

    Attributes:
        status: As the server sent it.
        headers: By name in lower case; of several with one name the last.
        ended: Whether the body has been received in full.
        pieces_seen: How many pieces of the body have come.
        overhead: Bytes since the last of them.
    """

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False
        self.pieces_seen = 0
        self.overhead = 0
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._paused = False
        self._waiting: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._begun = False
        self._whole_head = False
        self._ends_with_connection = False
        self._keeps = False
        self._released = False

    @property
    def content_type(self) -> str:
        """Without parameters, in lower case; `application/octet-stream` where the server does not say."""
        return self.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()

    async def head(self) -> None:
        """Waits for status and headers.

        Raises:
            NoAnswer: The connection ended without a word.
            TimeoutError: The server is silent.
            OSError: The connection broke, or what came is no HTTP.
        """
        while not self._whole_head:
            await self._more()

    async def read(self) -> bytes:
        """The next piece of the body; nothing after the last.

        Raises:
            OSError: The connection broke before the end, or what came is no HTTP.
        """
        while not self._pieces:
            if self.ended:
                return b""
            await self._more()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread = 0
        if self._paused:
            self._paused = False
            self._connection.go_on()
        return piece

    def release(self) -> None:
        """Gives the connection back, or breaks it off where the answer has not ended. A second time does nothing."""
        if not self._released:
            self._released = True
            self._connection.free(self.ended and self._keeps)

    def fail(self, error: Exception) -> None:
        """Ends the answer and the connection."""
        if self._error is None and not self.ended:
            self._error = error
            self._wake()
        self._keeps = False
        self._connection.abort()

    def connection_ended(self, error: Exception | None) -> None:
        """What that means for the answer."""
        self._keeps = False
        if self.ended or self._error is not None:
            return
        if self._whole_head and self._ends_with_connection and error is None:
            self.ended = True
        elif self._begun:
            self._error = BrokenOff(str(error) if error else "the server closed the connection")
        else:
            self._error = NoAnswer(str(error) if error else "the server closed the connection without an answer")
        self._wake()

    def on_message_begin(self) -> None:
        if self.ended:
            # A second answer to one request.
            self._keeps = False
        self._begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.ended:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self.ended:
            return
        parser = self._connection.parser
        assert parser is not None  # it is the one that calls
        self.status = parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
            return
        self._keeps = parser.should_keep_alive()
        chunked = self.headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._ends_with_connection = not chunked and "content-length" not in self.headers
        self._whole_head = True
        self._wake()

    def on_body(self, piece: bytes) -> None:
        if self.ended:
            return
        self.pieces_seen += 1
        self._pieces.append(piece)
        self._unread += len(piece)
        if self._unread > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._connection.pause()
        self._wake()

    def on_message_complete(self) -> None:
        # One that only says that the answer will come has no body and is followed by it.
        if self._whole_head and not self.ended:
            self.ended = True
            self._wake()

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiting = self._connection.loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
