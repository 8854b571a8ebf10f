"""Any OpenAI-compatible server as an engine: Bedrock, Azure, OpenAI, another vLLM. It serves one model as it is.

Servers that load adapters belong in `vllm.py`; retries, time-outs and replicas in the files that both stand on.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from finetune_platform.inference.breaker import Breaker
from finetune_platform.inference.chat import Body, EngineError, LoadedAdapter
from finetune_platform.inference.dispatch import USUAL_RETRIES, Dispatcher, Retries
from finetune_platform.inference.exchange import AttemptFailed, Http, Timeouts
from finetune_platform.inference.replicas import Replica


class UpstreamEngine:
    """A `ChatEngine` over servers that all serve `model`.

    Args:
        urls: Their addresses as OpenAI's clients take them (`https://host/v1`); `/v1` is added to a bare host.
        model: The name that they know the model by.
        api_key: Sent as a bearer token.
        timeout_s: Longest time for an answer, all tries included.
        timeouts: The shorter ones within it; `timeout_s` stands in its place.
        retries: When a request is tried again.
        hedge: Asks a second server when the first takes longer than 95% of answers do. Costs up to 5% more work.
        breaker: Makes each server's circuit breaker.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        *,
        timeouts: Timeouts | None = None,
        retries: Retries = USUAL_RETRIES,
        hedge: bool = False,
        breaker: Callable[[], Breaker] = Breaker,
    ) -> None:
        self.model = model
        self.replicas = tuple(Replica(url, breaker()) for url in urls)
        self._http = Http(api_key, (timeouts or Timeouts(timeout_s))._replace(total_s=timeout_s))
        self._dispatcher = Dispatcher(self._http, self._candidates, _ignore, retries, hedge)

    async def complete(self, body: Body, adapter: str | None) -> dict[str, Any]:
        self._refuse(adapter)
        return await self._dispatcher.complete(body, self.model)

    async def stream(self, body: Body, adapter: str | None) -> AsyncIterator[dict[str, Any]]:
        self._refuse(adapter)
        async with aclosing(self._dispatcher.stream(body, self.model)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def load(self, adapter: LoadedAdapter) -> None:
        """Always an error: these servers have no way to be given an adapter."""
        raise EngineError(
            400,
            f"{adapter.adapter_id}: an engine of kind openai serves {self.model} as it is and cannot load adapters; "
            "use kind vllm or in_process",
        )

    async def unload(self, adapter_id: str) -> None:
        """Nothing to do: no adapter is there."""

    async def loaded(self) -> set[str]:
        return set()

    async def close(self) -> None:
        await self._http.close()

    async def _candidates(self, model: str) -> Sequence[Replica]:
        return self.replicas

    def _refuse(self, adapter: str | None) -> None:
        # Not the caller's fault: another engine of the fallback order may well have the adapter.
        if adapter is not None:
            raise EngineError(501, f"{adapter}: an engine of kind openai has no adapters, it serves {self.model}")


def _ignore(replica: Replica, model: str, failure: AttemptFailed) -> None:
    """A server that failed stays a candidate: its breaker decides."""
