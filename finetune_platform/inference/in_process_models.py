"""Kind in_process: a base model with its adapters, and models all of whose weights were tuned, each its own engine.

A whole model takes its own memory, threads and queue; to the gateway it is one more adapter. Computing belongs in
`in_process.py`.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Literal

from finetune_platform.errors import PermanentError
from finetune_platform.inference.chat import Body, EngineError, LoadedAdapter
from finetune_platform.inference.in_process import InProcessEngine
from finetune_platform.inference.passing_thread import in_passing_thread
from finetune_platform.inference.whole_models import holds_whole_model, require_room

DRAIN_POLL_S = 0.02


class InProcessModels:
    """A `ChatEngine` in this process.

    Args:
        base_model: Local folder of the base model.
        dtype: `bfloat16`, `float32`, or `auto`: what the hardware multiplies faster; of every model.
        device: `auto` takes the GPU where there is one.

    Raises:
        PermanentError: The base model's architecture is not known.
    """

    def __init__(
        self, base_model: Path, *, dtype: Literal["auto", "bfloat16", "float32"] = "auto", device: str = "auto"
    ) -> None:
        self.base = InProcessEngine(base_model, dtype=dtype, device=device)
        self._whole: dict[str, InProcessEngine] = {}
        self._in_flight: Counter[str] = Counter()
        self._one_at_a_time = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def complete(self, body: Body, adapter: str | None) -> dict[str, Any]:
        if adapter is None or adapter not in self._whole:
            return await self.base.complete(body, adapter)
        with self._answering(adapter) as engine:
            return await engine.complete(body, None)

    async def stream(self, body: Body, adapter: str | None) -> AsyncIterator[dict[str, Any]]:
        if adapter is None or adapter not in self._whole:
            async with aclosing(self.base.stream(body, adapter)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        with self._answering(adapter) as engine:
            async with aclosing(engine.stream(body, None)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def load(self, adapter: LoadedAdapter) -> None:
        """Makes an adapter ready, or loads a whole model beside the others.

        Raises:
            EngineError: It does not fit the base model, or there is no memory for a whole model (400); the engine has
                stopped (503).
        """
        if not holds_whole_model(adapter.folder):
            await self.base.load(adapter)
            return
        async with self._one_at_a_time:
            if adapter.adapter_id in await self.loaded():
                return
            if (stopped := self._whole.pop(adapter.adapter_id, None)) is not None:
                await stopped.close()
            building = in_passing_thread(lambda: self._built(adapter))
            try:
                self._whole[adapter.adapter_id] = await asyncio.wrap_future(building)
            except PermanentError as error:
                raise EngineError(400, f"adapter {adapter.adapter_id}: {error.problem}; {error.mend}") from error

    async def unload(self, adapter_id: str) -> None:
        """Refuses new requests for the adapter or model, waits for those in flight, forgets it."""
        if (engine := self._whole.pop(adapter_id, None)) is None:
            await self.base.unload(adapter_id)
            return
        # Who waits may go away; the memory must be given back all the same.
        leaving = asyncio.create_task(self._leave(adapter_id, engine))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)

    async def loaded(self) -> set[str]:
        """Ids of the adapters and whole models that are ready.

        Raises:
            EngineError: The base model's engine has stopped.
        """
        whole = {name for name, engine in self._whole.items() if engine.batch.failure is None}
        return await self.base.loaded() | whole

    async def close(self) -> None:
        """Breaks off requests in flight and ends the threads."""
        for leaving in list(self._leaving):
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for engine in (self.base, *self._whole.values()):
            await engine.close()
        self._whole.clear()

    def _built(self, adapter: LoadedAdapter) -> InProcessEngine:
        dtype, device = self.base.precision.dtype, self.base.model.device
        require_room(adapter.folder, dtype, device)
        engine = InProcessEngine(adapter.folder, dtype=dtype, device=device)
        engine.name = adapter.adapter_id
        return engine

    @contextmanager
    def _answering(self, name: str) -> Iterator[InProcessEngine]:
        self._in_flight[name] += 1
        try:
            yield self._whole[name]
        finally:
            self._in_flight[name] -= 1

    async def _leave(self, name: str, engine: InProcessEngine) -> None:
        try:
            while self._in_flight[name]:
                await asyncio.sleep(DRAIN_POLL_S)
        finally:
            await engine.close()
