"""An engine for tests of what stands in front of engines: it answers, streams, fails and hangs as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_platform.inference.chat import EngineError, LoadedAdapter


@dataclass
class Manner:
    """How one adapter behaves.

    Attributes:
        pieces: The answer; streamed one by one.
        error: Raised instead of an answer, or after `error_after` pieces.
        hang_after: Never goes on after so many pieces.
        meanwhile: Called before each piece with its index, and before a whole answer is given with 0.
    """

    pieces: Sequence[str] = ("ca", "rd")
    error: EngineError | None = None
    error_after: int = 0
    hang_after: int | None = None
    meanwhile: Callable[[int], None] = lambda index: None


@dataclass
class AnsweringEngine:
    """A `ChatEngine` in memory. `manners` are by adapter (None: the base model); `asked` is every request, in order."""

    manners: dict[str | None, Manner] = field(default_factory=dict)
    asked: list[tuple[str | None, Mapping[str, Any]]] = field(default_factory=list)
    open_streams: int = 0
    adapters: dict[str, LoadedAdapter] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    load_error: EngineError | None = None
    unload_hangs: bool = False

    async def complete(self, body: Mapping[str, Any], adapter: str | None) -> dict[str, Any]:
        manner = self._asked(body, adapter)
        if manner.hang_after is not None:
            await asyncio.sleep(3600)
        if manner.error is not None:
            raise manner.error
        await asyncio.sleep(0)
        manner.meanwhile(0)
        message = {"role": "assistant", "content": "".join(manner.pieces)}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": _usage(manner)}

    async def stream(self, body: Mapping[str, Any], adapter: str | None) -> AsyncIterator[dict[str, Any]]:
        manner = self._asked(body, adapter)
        self.open_streams += 1
        try:
            for index in range(len(manner.pieces) + 1):
                await asyncio.sleep(0)
                if index == manner.hang_after:
                    await asyncio.sleep(3600)
                if manner.error is not None and index == manner.error_after:
                    raise manner.error
                manner.meanwhile(index)
                if index < len(manner.pieces):
                    yield _chunk({"content": manner.pieces[index]}, None)
            yield _chunk({}, "stop")
            yield {"choices": [], "usage": _usage(manner)}
        finally:
            self.open_streams -= 1

    async def load(self, adapter: LoadedAdapter) -> None:
        self.loads.append(adapter.adapter_id)
        if self.load_error is not None:
            raise self.load_error
        self.adapters[adapter.adapter_id] = adapter

    async def unload(self, adapter_id: str) -> None:
        if self.unload_hangs:
            await asyncio.sleep(3600)
        self.adapters.pop(adapter_id, None)

    async def loaded(self) -> set[str]:
        return set(self.adapters)

    async def close(self) -> None: ...

    def _asked(self, body: Mapping[str, Any], adapter: str | None) -> Manner:
        self.asked.append((adapter, body))
        return self.manners.setdefault(adapter, Manner())


def _chunk(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def _usage(manner: Manner) -> dict[str, int]:
    return {"prompt_tokens": 5, "completion_tokens": len(manner.pieces), "total_tokens": 5 + len(manner.pieces)}
