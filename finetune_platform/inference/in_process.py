"""The in-process engine as the gateway sees it: OpenAI's JSON in and out, asyncio on one side, one thread on the other.

How rows are computed together stands in `continuous.py`; what of a request is understood in `chat_request.py`.
"""

import asyncio
import copy
import time
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.inference.chat import Body, EngineError, LoadedAdapter
from finetune_platform.inference.chat_request import ChatRequest, read_request
from finetune_platform.inference.passing_thread import in_passing_thread
from finetune_platform.inference.precision import choose_precision

if TYPE_CHECKING:
    from finetune_platform.inference.requests_in_flight import Ended, Event, Row
    from finetune_platform.inference.sampling import Sampling

KV_TOKENS = 65_536
"""Most tokens of all rows in flight: bounds the memory of keys and values."""


class InProcessEngine:
    """A base model in this process, answering many requests at a time, each with an adapter of its own.

    Args:
        base_model: Local folder of the base model.
        dtype: `bfloat16`, `float32`, or `auto`: what the hardware multiplies faster.
        device: `auto` takes the GPU where there is one.
        max_rows: Most requests computed together.
        max_waiting: Most requests that wait for a place; those beyond are refused with 429.

    Raises:
        PermanentError: The base model's architecture is not known.
    """

    def __init__(
        self,
        base_model: Path,
        *,
        dtype: Literal["auto", "bfloat16", "float32"] = "auto",
        device: str = "auto",
        max_rows: int = 32,
        max_waiting: int = 256,
    ) -> None:
        import torch

        from finetune_platform.inference.continuous import ContinuousBatch
        from finetune_platform.inference.ragged_model import RaggedModel

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = base_model.name
        # A copy of its own: another user of the cached one may set truncation or padding while we encode.
        self.tokenizer = copy.deepcopy(load_tokenizer(base_model))

        def build() -> RaggedModel:
            self.precision = choose_precision(dtype, device)
            return RaggedModel(base_model, self.precision.dtype, device, max_rows=max_rows, max_tokens=KV_TOKENS)

        self.batch = ContinuousBatch(build, self.tokenizer, max_rows=max_rows, max_waiting=max_waiting)
        self.model = self.batch.model
        self.model.end_tokens.add(self.tokenizer.eos_token_id)
        self._preparing = ThreadPoolExecutor(1, "prepare-requests")

    async def complete(self, body: Body, adapter: str | None) -> dict[str, Any]:
        """A `chat.completion` object.

        Args:
            body: The request. `temperature` is 0 and `max_tokens` the rest of the context where it names none.
            adapter: Id of a loaded adapter; None for the base model.

        Raises:
            EngineError: 400 for what the request asks, 429 with a full queue, 503 without the adapter or the engine.
        """
        from finetune_platform.inference.requests_in_flight import Piece

        row, events = await self._submit(body, adapter, streams=False)
        pieces: list[str] = []
        try:
            while isinstance(event := await events.get(), Piece):
                pieces.append(event.text)
        except asyncio.CancelledError:
            self.batch.cancel(row)
            raise
        if isinstance(event, EngineError):
            raise event
        text = self.tokenizer.decode(event.tokens, skip_special_tokens=True) if event.text is None else event.text
        message = {"role": "assistant", "content": "".join(pieces) + text}
        return {
            **self._head("chat.completion", adapter),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": event.reason}],
            "usage": _usage(row, event),
        }

    async def stream(self, body: Body, adapter: str | None) -> AsyncGenerator[dict[str, Any], None]:
        """`chat.completion.chunk` objects; the last one carries `usage`. Arguments and errors as `complete`."""
        from finetune_platform.inference.requests_in_flight import Piece

        row, events = await self._submit(body, adapter, streams=True)
        head = self._head("chat.completion.chunk", adapter)
        try:
            event = await events.get()
            if not isinstance(event, EngineError):
                yield {**head, "choices": [_delta({"role": "assistant", "content": ""})]}
            while isinstance(event, Piece):
                yield {**head, "choices": [_delta({"content": event.text})]}
                event = await events.get()
            if isinstance(event, EngineError):
                raise event
            if event.text:
                yield {**head, "choices": [_delta({"content": event.text})]}
            yield {**head, "choices": [_delta({}, event.reason)]}
            yield {**head, "choices": [], "usage": _usage(row, event)}
        finally:
            self.batch.cancel(row)

    async def load(self, adapter: LoadedAdapter) -> None:
        """Reads a PEFT folder and makes the adapter ready; a known id is left as it is.

        Raises:
            EngineError: It is no plain LoRA adapter of this base model (400), or the engine has stopped (503).
        """
        if adapter.adapter_id in await self.loaded():
            return
        from finetune_platform.inference.adapter_files import read_adapter

        try:
            reading = in_passing_thread(lambda: read_adapter(adapter.folder, self.model.adapters.shapes))
            weights = await asyncio.wrap_future(reading)
        except PermanentError as error:
            raise EngineError(400, f"adapter {adapter.adapter_id}: {error.problem}; {error.mend}") from error
        await asyncio.wrap_future(self.batch.load(adapter.adapter_id, weights))

    async def unload(self, adapter_id: str) -> None:
        """Refuses new requests for the adapter, waits for those in flight, forgets it."""
        await asyncio.wrap_future(self.batch.unload(adapter_id))

    async def loaded(self) -> set[str]:
        """Ids of the adapters that are ready.

        Raises:
            EngineError: The engine has stopped.
        """
        if self.batch.failure is not None:
            raise self.batch.failure
        return set(self.batch.ready)

    async def close(self) -> None:
        """Breaks off requests in flight and ends the threads."""
        await asyncio.to_thread(self.batch.close)
        self._preparing.shutdown()

    async def _submit(self, body: Body, adapter: str | None, streams: bool) -> "tuple[Row, asyncio.Queue[Event]]":
        from finetune_platform.inference.requests_in_flight import Row

        self.batch.check(adapter)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def tell(event: "Event") -> None:
            # A loop that was closed with requests in flight has nobody left to tell.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(events.put_nowait, event)

        prompt, sampling = await loop.run_in_executor(self._preparing, self._prepare, body)
        row = Row(prompt, adapter, sampling, streams, tell)
        self.batch.submit(row)
        return row, events

    def _prepare(self, body: Body) -> "tuple[list[int], Sampling]":
        from finetune_platform.inference.sampling import Sampling

        request = read_request(body)
        prompt = self.encode(request)
        room = self.model.context_length - len(prompt)
        if room < (request.max_tokens or 1):
            asked = "" if request.max_tokens is None else f" and max_tokens {request.max_tokens}"
            raise EngineError(
                400, f"{len(prompt)} prompt tokens{asked} exceed the context of {self.model.context_length} tokens"
            )
        limit = request.max_tokens or room
        return prompt, Sampling(limit, request.temperature, request.top_p, request.seed, request.stop)

    def encode(self, request: ChatRequest) -> list[int]:
        """Token ids of a conversation that waits for the assistant.

        Raises:
            EngineError: 400: the model's chat template refuses the messages, or knows no tools.
        """
        text = self._rendered(request.messages, request.tools)
        if request.tools and text == self._rendered(request.messages, []):
            raise EngineError(400, "tools: the model's chat template knows none")
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _rendered(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tools=tools or None, add_generation_prompt=True, tokenize=False
                )
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise EngineError(400, f"messages: the model's chat template refuses them: {error}") from error

    def _head(self, kind: str, adapter: str | None) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": adapter or self.name,
        }


def _delta(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _usage(row: "Row", ended: "Ended") -> dict[str, Any]:
    return {
        "prompt_tokens": len(row.prompt),
        "completion_tokens": len(ended.tokens),
        "total_tokens": len(row.prompt) + len(ended.tokens),
        "prompt_tokens_details": {"cached_tokens": ended.cached_tokens},
    }
