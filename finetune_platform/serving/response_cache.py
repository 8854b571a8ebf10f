"""Answers kept for exact repeats, in the memory of one gateway: who may see them, who gave them, what was asked.

Whether an answer may still be shown is the plan's decision and stands in `answering.py`, where every request chooses
its adapter anew: nothing is looked up here for an adapter that may not answer.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import orjson

from finetune_platform.task_serving import ResponseCache

DECIDING = frozenset(
    {
        "messages", "max_tokens", "temperature", "top_p", "stop", "seed", "n", "frequency_penalty", "presence_penalty",
        "logit_bias", "response_format", "user", "metadata", "prompt_cache_key", "stream_options",
    }
)  # fmt: skip
"""A request with another field is not kept: the field may have the engine do something, or say more than text."""

TEXT_ONLY = frozenset({"role", "content"})
OVERHEAD_BYTES = 300
"""What an entry takes beside its answer: key, times, places in two tables."""


def key_of(tenant: str, key_id: str, adapter: str | None, body: Mapping[str, Any]) -> bytes | None:
    """The address of an answer; None where a second answer to the same request may differ, or must be given.

    Args:
        tenant: The caller's. Tenants never share; callers of none share within one key only.
        key_id: The caller's key.
        adapter: Who answers; None: the base model.
        body: What the engine is asked, prompt included.
    """
    if body.get("temperature") != 0 or body.get("n") not in (None, 1) or not DECIDING.issuperset(body):
        return None
    scope = ["tenant", tenant] if tenant else ["key", key_id]
    asked = {name: value for name, value in body.items() if name != "stream_options"}
    return hashlib.sha256(orjson.dumps([scope, adapter, asked], option=orjson.OPT_SORT_KEYS)).digest()


class _Entry(NamedTuple):
    answer: bytes
    until: float


class AnswerCache:
    """Whole answers of one task, the least used dropped first. For one event loop.

    Args:
        limits: How many, how large, how long.
        clock: Monotonic seconds.
    """

    def __init__(self, limits: ResponseCache, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._most_bytes = int(limits.max_mb * 2**20)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._flights: dict[bytes, asyncio.Future[None]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> dict[str, Any] | None:
        """A kept answer, the caller's own copy; None where there is none, or it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        answer: dict[str, Any] = orjson.loads(entry.answer)
        return answer

    def put(self, key: bytes, answer: Mapping[str, Any]) -> None:
        """Keeps a whole answer, if it fits."""
        if key in self._entries:
            self._drop(key)
        entry = _Entry(orjson.dumps(answer), self._clock() + self._limits.ttl_s)
        if _size(entry) > self._most_bytes:
            return
        self._entries[key] = entry
        self.size_bytes += _size(entry)
        while len(self._entries) > self._limits.max_entries or self.size_bytes > self._most_bytes:
            self._drop(next(iter(self._entries)))

    async def answer(self, key: bytes, ask: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[dict[str, Any], bool]:
        """The answer, and whether it was kept; of several that ask at once one asks the engine.

        Who waits for another's answer and gets none asks for itself: a failure is nobody else's.
        """
        if (flight := self._flights.get(key)) is not None:
            await asyncio.wait([flight])
        if (kept := self.get(key)) is not None:
            return kept, True
        if key in self._flights:
            return await ask(), False
        self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await ask()
            self.put(key, answer)
            return answer, False
        finally:
            self._flights.pop(key).set_result(None)

    async def kept_stream(
        self, key: bytes, chunks: AsyncIterator[dict[str, Any]]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """An engine's chunks as they come; what they amount to is kept once all have been read."""
        text: list[str] = []
        finish_reason: str | None = None
        usage: dict[str, Any] | None = None
        plain = True
        async with aclosing(chunks) as rest:  # type: ignore[type-var]
            async for chunk in rest:
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    delta = choice["delta"]
                    text.append(delta.get("content") or "")
                    plain = plain and not any(delta[name] for name in delta.keys() - TEXT_ONLY)
                    finish_reason = choice.get("finish_reason") or finish_reason
                yield chunk
        if plain and finish_reason is not None and usage is not None:
            self.put(key, _whole("".join(text), finish_reason, usage))

    def _drop(self, key: bytes) -> None:
        self.size_bytes -= _size(self._entries.pop(key))


async def replayed(answer: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """A whole answer as the chunks of a streamed one."""
    head = {"object": "chat.completion.chunk", "created": answer.get("created") or int(time.time())}
    choice = answer["choices"][0]
    yield {**head, "choices": [{"index": 0, "delta": choice["message"], "finish_reason": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice.get("finish_reason")}]}
    yield {**head, "choices": [], "usage": answer.get("usage")}


def _whole(text: str, finish_reason: str, usage: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}]
    return {"object": "chat.completion", "created": int(time.time()), "choices": choices, "usage": usage}


def _size(entry: _Entry) -> int:
    return len(entry.answer) + OVERHEAD_BYTES
