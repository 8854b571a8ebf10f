"""One chat, several servers: whom to ask, when to ask again, and when to give up.

A request is tried again only while nothing of an answer has come, and everything stays within one deadline. What a
failure means is told by `exchange.py`.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson

from finetune_platform.inference.chat import Body, EngineError
from finetune_platform.inference.exchange import AttemptFailed, Http, Timeouts
from finetune_platform.inference.hedging import Latencies, first_answer
from finetune_platform.inference.replicas import Replica, begin_on_least_busy
from finetune_platform.inference.streaming import ChatStream

T = TypeVar("T")
Candidates = Callable[[str], Awaitable[Sequence[Replica]]]
"""The replicas that can answer as a model; raises `EngineError` where none can."""


class Retries(NamedTuple):
    """When a request is tried again.

    Attributes:
        attempts: Requests at most, the first included.
        base_s: The n-th pause is drawn evenly from 0 to `base_s * 2**(n - 1)` ("full jitter": callers that failed
            together do not come back together).
        cap_s: Longest pause drawn.
        max_retry_after_s: Longest `Retry-After` that is waited for; a longer one ends the tries.
    """

    attempts: int = 3
    base_s: float = 0.1
    cap_s: float = 2.0
    max_retry_after_s: float = 5.0


USUAL_RETRIES = Retries()


class Dispatcher:
    """Sends chats to replicas.

    Args:
        http: Connections.
        candidates: Who can answer.
        failed: Told of every failed attempt, before it is tried again.
        retries: When that is.
        hedge: Whether an answer that is not streamed and takes longer than 95% of them is asked of a second replica.
    """

    def __init__(
        self,
        http: Http,
        candidates: Candidates,
        failed: Callable[[Replica, str, AttemptFailed], None],
        retries: Retries,
        hedge: bool,
    ) -> None:
        self.http = http
        self.candidates = candidates
        self.failed = failed
        self.retries = retries
        self.latencies = Latencies() if hedge else None

    @property
    def timeouts(self) -> Timeouts:
        return self.http.timeouts

    async def complete(self, body: Body, model: str) -> dict[str, Any]:
        """A whole answer of `model`.

        Raises:
            EngineError: There is none.
        """
        payload = encode(body, model, stream=False)
        deadline = self._deadline()
        tried: list[Replica] = []
        try:
            async with asyncio.timeout_at(deadline):
                if self.latencies is not None and (usual_s := self.latencies.p95()) is not None:
                    others = await self.candidates(model)
                    return await first_answer(
                        self._trying(model, payload, deadline, tried, self._whole),
                        lambda: self._hedge(model, payload, deadline, tried, others),
                        usual_s,
                    )
                return await self._trying(model, payload, deadline, tried, self._whole)
        except TimeoutError as error:
            raise EngineError(504, f"no answer within {self.timeouts.total_s:g} s") from error

    async def stream(self, body: Body, model: str) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks of an answer of `model`; see `ChatEngine.stream`."""
        payload = encode(body, model, stream=True)
        deadline = self._deadline()
        try:
            async with asyncio.timeout_at(deadline):
                opened = await self._trying(model, payload, deadline, [], self._opened)
        except TimeoutError as error:
            raise EngineError(504, f"no answer within {self.timeouts.total_s:g} s") from error
        replica, permit, stream, chunk = opened
        ok: bool | None = None
        try:
            while chunk is not None:
                yield chunk
                # A complete answer is the server's success even if the caller leaves before its very end.
                ok = True if stream.ended else None
                chunk = await stream.next()
        except AttemptFailed as failure:
            ok = failure.ok
            raise
        finally:
            stream.close()
            replica.end(model, permit, ok)

    async def _trying(
        self,
        model: str,
        payload: bytes,
        deadline: float,
        tried: list[Replica],
        attempt: Callable[[Replica, int, str, bytes, float], Awaitable[T]],
    ) -> T:
        """Asks until an attempt succeeds, may not be repeated, or the next would come too late."""
        number = 0
        last: AttemptFailed | None = None
        while True:
            try:
                replicas = await self.candidates(model)
                # No await between the choice and the count: a drain must see the request.
                replica, permit = begin_on_least_busy(replicas, tried, model)
            except EngineError:
                if last is not None:
                    raise last from None
                raise
            tried.append(replica)
            try:
                return await attempt(replica, permit, model, payload, deadline)
            except AttemptFailed as failure:
                self.failed(replica, model, failure)
                number += 1
                last = failure
                pause = self._pause(number, failure, elsewhere=not set(replicas) <= set(tried))
                if pause is None or asyncio.get_running_loop().time() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)

    async def _whole(
        self, replica: Replica, permit: int, model: str, payload: bytes, deadline: float
    ) -> dict[str, Any]:
        clock = asyncio.get_running_loop().time
        started = clock()
        ok: bool | None = None
        try:
            answer = await self.http.ask(replica.name, f"{replica.base}/chat/completions", payload)
            ok = True
        except AttemptFailed as failure:
            ok = failure.ok
            raise
        except asyncio.CancelledError:
            ok = False if clock() >= deadline else None
            raise
        finally:
            replica.end(model, permit, ok)
        if self.latencies is not None:
            self.latencies.add(clock() - started)
        return answer

    async def _opened(
        self, replica: Replica, permit: int, model: str, payload: bytes, deadline: float
    ) -> tuple[Replica, int, ChatStream, dict[str, Any] | None]:
        """A stream whose first chunk has come; the replica's place stays taken."""
        clock = asyncio.get_running_loop().time
        ok: bool | None = None
        response = None
        opened = False
        try:
            response = await self.http.post(replica.name, f"{replica.base}/chat/completions", payload)
            stream = ChatStream(replica.name, response, self.timeouts, deadline)
            chunk = await stream.next()
            opened = True
            return replica, permit, stream, chunk
        except AttemptFailed as failure:
            ok = failure.ok
            raise
        except asyncio.CancelledError:
            ok = False if clock() >= deadline else None
            raise
        finally:
            if not opened:
                if response is not None:
                    response.release()
                replica.end(model, permit, ok)

    def _hedge(
        self, model: str, payload: bytes, deadline: float, tried: list[Replica], others: Sequence[Replica]
    ) -> Any:
        if all(r in tried or r.breaker.state != "closed" for r in others):
            return None
        return self._trying(model, payload, deadline, tried, self._whole)

    def _pause(self, number: int, failure: AttemptFailed, *, elsewhere: bool) -> float | None:
        """Seconds before the next try; None: there is none. Nobody waits for a server that another can stand in for."""
        if not failure.again or number >= self.retries.attempts:
            return None
        drawn = random.uniform(0, min(self.retries.base_s * 2 ** (number - 1), self.retries.cap_s))
        if failure.retry_after_s is None or elsewhere:
            return drawn
        if failure.retry_after_s > self.retries.max_retry_after_s:
            return None
        return failure.retry_after_s + drawn

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.timeouts.total_s


def encode(body: Body, model: str, *, stream: bool) -> bytes:
    """The request as a server gets it.

    Raises:
        EngineError: It cannot be written as JSON (400).
    """
    request = {**body, "model": model, "stream": stream}
    if stream:
        request["stream_options"] = {"include_usage": True}
    else:
        # OpenAI refuses these options where nothing is streamed.
        request.pop("stream_options", None)
    try:
        return orjson.dumps(request)
    except TypeError as error:
        raise EngineError(400, f"the request cannot be written as JSON: {error}") from error
