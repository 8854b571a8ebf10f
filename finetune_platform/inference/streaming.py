"""A streamed answer as checked chunks, the last one with usage and no choice, whatever order the server sends.

Cutting bytes into events belongs in `sse.py`, what a chunk must hold in `answers.py`.
"""

import asyncio
from collections import deque
from typing import Any

from finetune_platform.inference import answers
from finetune_platform.inference.chat import EngineError
from finetune_platform.inference.exchange import AttemptFailed, Timeouts, reason
from finetune_platform.inference.http_connection import Response
from finetune_platform.inference.sse import Event, SseParser

DONE = b"[DONE]"

LINGER_S = 0.2
"""How long the end of the connection is waited for after `[DONE]`: seen, the connection serves the next request."""


class ChatStream:
    """One streamed answer.

    Args:
        name: The server, for messages.
        response: Its answer with status 200, body unread; released by `close`.
        timeouts: For the first piece, and each next one.
        deadline: On the event loop's clock.

    Raises:
        AttemptFailed: The answer is no event stream.
    """

    def __init__(self, name: str, response: Response, timeouts: Timeouts, deadline: float) -> None:
        if response.content_type != "text/event-stream":
            raise AttemptFailed(502, f"{name} answered {response.content_type} instead of an event stream")
        self.name = name
        self.ended = False
        self._response = response
        self._deadline = deadline
        self._silence_s = timeouts.silence_s
        self._wait_s = timeouts.first_byte_s
        self._parser = SseParser()
        self._events: deque[Event] = deque()
        self._pieces = 0
        self._unfinished: set[int] = set()
        self._last: dict[str, Any] | None = None
        self._with_usage: dict[str, Any] | None = None

    async def next(self) -> dict[str, Any] | None:
        """The next chunk; None after the last.

        Raises:
            AttemptFailed: The server broke off, fell silent, or sent something else than chunks.
        """
        while not self.ended:
            while self._events:
                event = self._events.popleft()
                if event.data == DONE:
                    return self._end()
                if (chunk := self._take(event)) is not None:
                    return chunk
            if not (piece := await self._read()):
                self._events.extend(self._parser.end())
                if not self._events:
                    return self._end_without_done()
            self._feed(piece)
        await self._linger()
        return None

    def close(self) -> None:
        """Gives the connection back, or breaks it off where the answer has not ended: the server then stops."""
        self._response.release()

    async def _read(self) -> bytes:
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(min(self._deadline, clock() + self._wait_s)):
                piece = await self._response.read()
        except TimeoutError as error:
            raise AttemptFailed(504, f"{self.name} began a stream and did not go on in time") from error
        except OSError as error:
            raise AttemptFailed(502, f"{self.name} broke a stream off: {reason(error)}") from error
        self._wait_s = self._silence_s
        return piece

    def _feed(self, piece: bytes) -> None:
        try:
            self._events.extend(self._parser.feed(piece))
        except EngineError as error:
            raise AttemptFailed(error.status, f"{self.name}: {error.message}") from error

    def _take(self, event: Event) -> dict[str, Any] | None:
        """A chunk with a choice; one without is kept for the end, if it tells the usage."""
        if event.name == b"error":
            raise AttemptFailed(502, f"{self.name} failed while answering: {answers.error_text(event.data, None)}")
        try:
            chunk = answers.chunk(event.data)
        except EngineError as error:
            raise AttemptFailed(error.status, f"{self.name}: {error.message}") from error
        if chunk.get("usage"):
            self._with_usage = chunk
        if not chunk["choices"]:
            return None
        for choice in chunk["choices"]:
            self._pieces += bool(choice["delta"].get("content"))
            if choice.get("finish_reason"):
                self._unfinished.discard(choice["index"])
            else:
                self._unfinished.add(choice["index"])
        self._last = chunk
        return chunk

    def _end_without_done(self) -> dict[str, Any]:
        if self._last is None or self._unfinished:
            raise AttemptFailed(502, f"{self.name} ended a stream before the answer was complete")
        return self._end()

    def _end(self) -> dict[str, Any]:
        if self._last is None:
            raise AttemptFailed(502, f"{self.name} streamed an answer without choices")
        self.ended = True
        usage = self._with_usage["usage"] if self._with_usage else answers.unknown_usage(self._pieces)
        return {**self._last, "choices": [], "usage": usage}

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                while await self._response.read():
                    pass
        except OSError:
            pass  # `close` breaks the connection off
