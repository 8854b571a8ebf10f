"""Bytes of a `text/event-stream` to events, however the bytes are cut (WHATWG HTML, section 9.2.6).

What the events mean belongs in `answers.py`.
"""

from typing import NamedTuple

from finetune_platform.inference.chat import EngineError

MAX_EVENT_BYTES = 4 * 2**20
"""An answer's chunk is a few hundred bytes: beyond this a server is broken, and memory is what it would cost."""

BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event: its name (empty for a plain message) and its data lines, joined by line feeds."""

    name: bytes
    data: bytes


class SseParser:
    """Collects events from pieces of a stream; comments, ids and retry times are dropped."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._first_line = True
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes.

        Raises:
            EngineError: One event is larger than `MAX_EVENT_BYTES`.
        """
        if self._after_cr and piece:
            # A CR ended a line already; the LF that belongs to it came in the next piece.
            piece = piece[1:] if piece[0] == 10 else piece
            self._after_cr = False
        if b"\n" not in piece and b"\r" not in piece:
            self._line += piece
            self._bound(len(self._line))
            return []
        if self._line:
            piece = bytes(self._line) + piece
            self._line.clear()
        self._after_cr = piece.endswith(b"\r")
        lines = piece.splitlines()
        if not piece.endswith((b"\r", b"\n")):
            self._line += lines.pop()
        return [event for line in lines if (event := self._take(line)) is not None]

    def end(self) -> list[Event]:
        """What an ended stream still holds: servers omit the blank line after their last event."""
        last = self._take(bytes(self._line)) if self._line else None
        self._line.clear()
        return [event for event in (last, self._take(b"")) if event is not None]

    def _take(self, line: bytes) -> Event | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(BOM)
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            self._data.append(value)
            self._size += len(value)
            self._bound(self._size)
        elif field == b"event":
            self._name = value
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._name, b"\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = b"", [], 0
        return event

    def _bound(self, size: int) -> None:
        if size > MAX_EVENT_BYTES:
            raise EngineError(502, f"the stream holds an event of more than {MAX_EVENT_BYTES} bytes")
