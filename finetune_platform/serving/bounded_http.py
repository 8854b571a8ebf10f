"""Bounds that uvicorn lacks: how long and how large a request's head may be, how long anything may wait for a client.

Who sends a head or takes an answer byte by byte, or goes on with a body that was refused, loses the connection. None of
it needs a key, so none of it can be left to what stands behind. Bodies that are read are bounded in `requests.py`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from finetune_platform.serving.requests import MAX_BODY_BYTES
from finetune_platform.serving.wire import error_body

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
MAX_CHUNK_BYTES = 4 * 1024 * 1024
"""What a body's division into chunks may add to it: the parser reads, and forgets, any length of it."""

HEAD_TIMEOUT_S = 10.0
UNREAD_TIMEOUT_S = 5.0
"""How long the rest of a body may take whose answer is out: time enough to read that answer."""

WRITE_TIMEOUT_S = 60.0
"""How long a client may take nothing of an answer that waits for it."""


class HeadTooLong(Exception):
    """Raised through the parser."""


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP, bounded."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._in_head = True
        self._in_body = False
        self._began_now = False
        self._head_bytes = self._body_bytes = 0
        self._too_long = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._unread_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._began_now, was_in_body = False, self._in_body
        super().data_received(data)
        if self.transport.is_closing():
            return
        # What came before a head or a body in the same read is not told apart: both count from the next read on.
        if self._in_head:
            self._head_bytes += 0 if self._began_now else len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._too_long = True
                self.send_400_response("")
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
        elif self._in_body and was_in_body:
            self._body_bytes += len(data)
            if self._body_bytes > MAX_BODY_BYTES + MAX_CHUNK_BYTES:
                self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_head = self._began_now = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._body_bytes = 0
        self._head_timer = _ended(self._head_timer)
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._too_long = True
            raise HeadTooLong
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._unread_timer = _ended(self._unread_timer)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._unread_timer = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._write_timer = _ended(self._write_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request, in the gateway's own shape, and hangs up."""
        if not self.pipeline and (
            self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        ):
            status, told = (431, "the head of the request is too long") if self._too_long else (400, "this is no HTTP")
            body = error_body(status, told)
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # Nothing more may be read before the answer that is under way is out.
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
        else:
            self.transport.close()


def _ended(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
