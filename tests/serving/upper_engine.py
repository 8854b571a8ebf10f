"""An engine whose answers are whole in OpenAI's shape and can be told apart by what was asked."""

from collections.abc import AsyncIterator
from typing import Any

from finetune_platform.inference.chat import EngineError, LoadedAdapter


class Upper:
    """An engine that answers with the last message in capitals, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.failing: EngineError | None = None
        self.break_after: int | None = None

    async def complete(self, body: Any, adapter: str | None) -> dict[str, Any]:
        self.asked.append(dict(body))
        if self.failing is not None:
            raise self.failing
        text = str(body["messages"][-1].get("content") or "").upper()
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    async def stream(self, body: Any, adapter: str | None) -> AsyncIterator[dict[str, Any]]:
        whole = await self.complete(body, adapter)
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        pieces = whole["choices"][0]["message"]["content"].split(" ")
        for number, piece in enumerate(pieces):
            if number == self.break_after:
                raise EngineError(502, "the server went away")
            yield {**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield {**head, "choices": [], "usage": whole["usage"]}

    async def load(self, adapter: LoadedAdapter) -> None: ...

    async def unload(self, adapter_id: str) -> None: ...

    async def loaded(self) -> set[str]:
        return set()

    async def close(self) -> None: ...
