"""What answers a chat, whichever way: OpenAI's request and response as plain JSON, one interface for every engine.

An engine is told which adapter answers by its content-addressed id and never decides about routes, keys or logs: that
is the gateway's. `body` is always an OpenAI chat-completion request with `messages` complete (system prompt included);
`model` and `stream` in it mean nothing here.
"""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Body = Mapping[str, Any]
"""An OpenAI chat-completion request, response or chunk."""


class LoadedAdapter(NamedTuple):
    """An adapter as engines address it: its id, and the local PEFT folder that holds it."""

    adapter_id: str
    folder: Path


class EngineError(Exception):
    """Why an engine gave no answer.

    Args:
        status: The HTTP status that tells a caller of it: 400 the request's fault, 429 or 503 too much work, 502 a
            failing server, 504 one that takes too long.
        message: For the log and, with status 400, for the caller.
        retry_after_s: When it may be worth trying again.
    """

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def callers_fault(self) -> bool:
        """Whether another engine would refuse the same request too."""
        return 400 <= self.status < 500 and self.status not in (408, 409, 429)


class ChatEngine(Protocol):
    """A base model and any number of its adapters, answering many requests at a time."""

    async def complete(self, body: Body, adapter: str | None) -> dict[str, Any]:
        """A whole `chat.completion` object, with `usage`.

        Args:
            body: The request.
            adapter: Id of an adapter that was loaded; None for the base model.

        Raises:
            EngineError: There is no answer.
        """
        ...

    def stream(self, body: Body, adapter: str | None) -> AsyncIterator[dict[str, Any]]:
        """`chat.completion.chunk` objects as they come; the last one carries `usage` and no choice.

        Closing the iterator ends the work on the request. Before the first chunk a failure is raised as an
        `EngineError`, and another engine may be asked; after it too, and the answer is broken off.
        """
        ...

    async def load(self, adapter: LoadedAdapter) -> None:
        """Makes an adapter ready on every replica; returns when all have it. Twice is no error.

        Raises:
            EngineError: It cannot be loaded.
        """
        ...

    async def unload(self, adapter_id: str) -> None:
        """Waits until no request uses the adapter, then forgets it. One that is not there is no error."""
        ...

    async def loaded(self) -> set[str]:
        """Ids of the adapters that every replica is ready to answer with."""
        ...

    async def close(self) -> None:
        """Ends unfinished work and gives back memory and connections."""
        ...
