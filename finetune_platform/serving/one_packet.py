"""HTTP answers in one packet: uvicorn writes head and body apart, and each write wakes the reader at the other end."""

import asyncio
from typing import Any

from finetune_platform.serving.bounded_http import BoundedProtocol


class JoinedWrites:
    """A transport that sends at the end of the event loop's turn, as one, what was written within it.

    Args:
        transport: Does everything else.
        loop: Its event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(piece)

    def flush(self) -> None:
        """Sends what waits."""
        pieces, self._pieces = self._pieces, []
        if pieces and not self.transport.is_closing():
            self.transport.write(b"".join(pieces))

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class OnePacketProtocol(BoundedProtocol):
    """Uvicorn's HTTP, bounded, with joined writes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]

    def handle_websocket_upgrade(self) -> None:
        joined = self.transport
        assert isinstance(joined, JoinedWrites)
        joined.flush()
        self.transport = joined.transport
        super().handle_websocket_upgrade()
