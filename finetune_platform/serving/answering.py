"""One request's way to an answer: the arm that the plan chooses, then its fallbacks, and what is noted of each.

HTTP stands in `chat_api.py`. Nothing is shown that came from an adapter withdrawn in the meantime: the plan is looked
at again after a whole answer, and before every piece of a streamed one.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from finetune_platform.inference.chat import EngineError
from finetune_platform.retrieval.index import Passage
from finetune_platform.serving import tracing
from finetune_platform.serving.interaction_ids import InteractionIds
from finetune_platform.serving.plan import BASE, Choice, Plan, choose, fallbacks
from finetune_platform.serving.response_cache import key_of, replayed
from finetune_platform.serving.served_task import ServedTask
from finetune_platform.serving.traffic import ArmKey, Traffic
from finetune_platform.serving.write_ahead import NotLogged

if TYPE_CHECKING:
    from opentelemetry.trace import Span

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """One request to a task: `request` has plain messages, `session` is what sticks together.

    `passages` were found for it; None: the task names no corpus.
    """

    served: ServedTask
    request: Mapping[str, Any]
    session: str
    tenant: str = ""
    key_id: str = ""
    streamed: bool = False
    passages: Sequence[Passage] | None = None


@dataclass
class Reply:
    """What became of a request.

    `request` is what the engine was asked. `text` and `usage` grow while it streams. `errors` are the arms that were
    asked before and why they did not answer. `cached` says whether the answer was kept from an earlier request; None:
    answers to this one are not kept.
    """

    interaction_id: str
    choice: Choice
    request: dict[str, Any]
    started: float
    errors: list[tuple[Choice, str]]
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float = 0.0
    format_valid: bool | None = None
    refused: bool = False
    error: str | None = None
    span: "Span | None" = None
    cached: bool | None = None


class _Withdrawn(EngineError):
    """The adapter that answered must not any more. That is no failure of its: none is counted."""

    def __init__(self) -> None:
        super().__init__(503, "the model that was answering has been withdrawn; ask again", 0.0)


@dataclass
class _Tried:
    """Who was asked already, and why there is no answer yet."""

    adapters: set[str | None] = field(default_factory=set)
    failed: list[tuple[Reply, EngineError]] = field(default_factory=list)

    def add(self, adapter: str | None) -> bool:
        """Whether this one is asked for the first time."""
        new = adapter not in self.adapters
        self.adapters.add(adapter)
        return new

    @property
    def errors(self) -> list[tuple[Choice, str]]:
        return [(reply.choice, error.message) for reply, error in self.failed]


Noted = Callable[[Ask, Reply, dict[str, Any] | None], "Future[None] | None"]
"""Hears of every request that was answered or that nobody could answer, once: the ask, the reply, and the whole answer
where it was not streamed. What it gives back ends when the interaction is safe: an answer is not over before. Requests
that were at fault themselves, or met a full queue, are none."""


class Answering:
    """Answers requests.

    Args:
        plan_of: What serves a task now.
        ids: Makes interaction ids.
        traffic: Counts.
        noted: Hears of every finished request.
        spans: Makes a span of every arm that is asked.
    """

    def __init__(
        self,
        plan_of: Callable[[str], Plan],
        ids: InteractionIds,
        traffic: Traffic,
        noted: Noted,
        spans: tracing.Tracing = tracing.OFF,
    ) -> None:
        self._plan_of, self._ids, self._traffic, self._noted, self._spans = plan_of, ids, traffic, noted, spans

    async def complete(self, ask: Ask) -> tuple[Reply, dict[str, Any]]:
        """A whole answer.

        Raises:
            EngineError: Nobody could answer, or the request is at fault.
        """
        tried = _Tried()
        while (choice := self._next(ask, tried)) is not None:
            reply = self._reply(ask, choice, tried)
            try:
                answer = await self._ask(ask, reply)
                if not self._allowed(ask, choice):
                    raise _Withdrawn
            except EngineError as error:
                self._failed(ask, reply, error)
                tried.failed.append((reply, error))
                continue
            self._finish_whole(ask, reply, answer)
            await self._note(ask, reply, answer)
            # Where the log was slow it may be withdrawn by now. Counted and logged it is: nobody else is asked.
            if not self._allowed(ask, choice):
                raise _Withdrawn
            return reply, answer
        raise await self._nobody(ask, tried)

    async def stream(self, ask: Ask) -> tuple[Reply, AsyncGenerator[dict[str, Any], None]]:
        """A reply that has begun, and its chunks; the last one carries `usage` and no choice.

        The chunks must be read or closed.

        Raises:
            EngineError: Nobody could begin an answer, or the request is at fault.
        """
        tried = _Tried()
        while (choice := self._next(ask, tried)) is not None:
            reply = self._reply(ask, choice, tried)
            chunks = self._chunks(ask, reply)
            try:
                first = await _in_time(ask, anext(chunks, None))
                if first is None:
                    raise EngineError(502, "the model gave an empty answer")
                if not self._allowed(ask, choice):
                    await chunks.aclose()  # type: ignore[attr-defined]
                    raise _Withdrawn
            except EngineError as error:
                self._failed(ask, reply, error)
                tried.failed.append((reply, error))
                continue
            flow = self._flow(ask, reply, first, chunks)
            # Begun, so that closing it ends the engine's work too where nobody reads a piece of it.
            await anext(flow)
            return reply, flow
        raise await self._nobody(ask, tried)

    async def shadow(self, ask: Ask, choice: Choice) -> None:
        """Lets an adapter answer a copy of a request, counts and notes it; a failure is one of its counts."""
        if not ask.served.is_ready(choice.adapter):
            return
        reply = self._reply(ask, choice, _Tried())
        answer = None
        try:
            answer = await self._ask(ask, reply)
        except EngineError as error:
            if error.callers_fault:
                _end_span(reply, "refused", error.status)
                return
            self._fail(ask, reply, error)
        else:
            self._finish_whole(ask, reply, answer)
        await self._note(ask, reply, answer)

    def _next(self, ask: Ask, tried: _Tried) -> Choice | None:
        """Who is asked next: the plan may have changed since the last one was asked."""
        plan = self._plan_of(ask.served.name)
        first = choose(plan, ask.served.name, ask.session, ask.tenant)
        line = [first, *fallbacks(plan, first, ask.served.task.serving.fallback)]
        return next((c for c in line if ask.served.is_ready(c.adapter) and tried.add(c.adapter)), None)

    def _allowed(self, ask: Ask, choice: Choice) -> bool:
        return self._plan_of(ask.served.name).allows(choice.adapter)

    async def _flow(
        self, ask: Ask, reply: Reply, first: dict[str, Any], chunks: AsyncIterator[dict[str, Any]]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of an answer; before them one that is not part of it."""
        pieces: list[str] = []
        usage: dict[str, Any] | None = None
        whole = False
        try:
            async with aclosing(chunks) as rest:  # type: ignore[type-var]
                yield {}
                chunk: dict[str, Any] | None = first
                while chunk is not None:
                    if not self._allowed(ask, reply.choice):
                        raise _Withdrawn
                    usage = chunk.get("usage") or usage
                    for choice in chunk["choices"]:
                        pieces.append(choice["delta"].get("content") or "")
                        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
                    yield chunk
                    chunk = await _in_time(ask, anext(rest, None))
            whole = True
        except EngineError as error:
            self._fail(ask, reply, error)
            raise
        finally:
            reply.text = "".join(pieces)
            # Half an answer, because its reader has left, says nothing about the arm.
            if reply.error is None and not whole and reply.finish_reason is None:
                reply.finish_reason = "cancelled"
                self._measure(reply, usage)
                _end_span(reply, "cancelled")
            elif reply.error is None:
                self._finish(ask, reply, usage)
            await self._note(ask, reply, None)

    async def _nobody(self, ask: Ask, tried: _Tried) -> EngineError:
        """Notes a request that nobody answered; why."""
        if not tried.failed:
            return EngineError(503, f"{ask.served.name}: nothing is ready to answer", 1.0)
        reply, error = tried.failed[-1]
        await self._note(ask, reply, None)
        return error

    async def _note(self, ask: Ask, reply: Reply, answer: dict[str, Any] | None) -> None:
        if (safe := self._noted(ask, reply, answer)) is not None and not safe.done():
            # An interaction that cannot be kept is counted by the log and costs nobody an answer.
            with contextlib.suppress(NotLogged):
                await asyncio.shield(asyncio.wrap_future(safe))

    async def _ask(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        adapter = reply.choice.adapter
        if ask.served.cache is None or (key := self._cache_key(ask, reply)) is None:
            return await _in_time(ask, ask.served.engine_of(adapter).complete(reply.request, adapter))
        engine = ask.served.engine_of(adapter)
        kept = ask.served.cache.answer(key, lambda: engine.complete(reply.request, adapter))
        answer, reply.cached = await _in_time(ask, kept)
        return answer

    def _chunks(self, ask: Ask, reply: Reply) -> AsyncIterator[dict[str, Any]]:
        adapter = reply.choice.adapter
        cache = ask.served.cache
        if cache is None or (key := self._cache_key(ask, reply)) is None:
            return ask.served.engine_of(adapter).stream(reply.request, adapter)
        kept = cache.get(key)
        reply.cached = kept is not None
        if kept is not None:
            return replayed(kept)
        return cache.kept_stream(key, ask.served.engine_of(adapter).stream(reply.request, adapter))

    def _cache_key(self, ask: Ask, reply: Reply) -> bytes | None:
        plan = self._plan_of(ask.served.name)
        # What is kept is no evidence. If the champion's common requests were, and the newcomer's not yet, the two
        # would be compared on different requests: while there is a trial every request is answered anew.
        if plan.canary is not None or plan.shadow is not None:
            return None
        return key_of(ask.tenant, ask.key_id, reply.choice.adapter, reply.request)

    def _reply(self, ask: Ask, choice: Choice, tried: _Tried) -> Reply:
        # The body is made now: by the time of the note the fleet may have forgotten the adapter's prompt.
        body = ask.served.body_for(ask.request, choice.adapter, ask.passages or ())
        interaction_id = self._ids.new(ask.served.name, *choice, ask.tenant)
        span = self._spans.begin(ask.served.name, choice, interaction_id, ask.streamed)
        return Reply(interaction_id, choice, body, time.perf_counter(), tried.errors, span=span)

    def _failed(self, ask: Ask, reply: Reply, error: EngineError) -> None:
        """Counts that an arm did not answer.

        Raises:
            EngineError: `error`, where the next in line is not asked: the request is itself at fault, or the queue is
                full. Asking another would only move the load, and make it heavier.
        """
        if error.callers_fault:
            _end_span(reply, "refused", error.status)
            raise error
        self._fail(ask, reply, error)
        if error.status == 429:
            raise error

    def _fail(self, ask: Ask, reply: Reply, error: EngineError) -> None:
        reply.error = error.message
        self._measure(reply, None)
        withdrawn = isinstance(error, _Withdrawn)
        _end_span(reply, "withdrawn" if withdrawn else "error", error.status)
        if not withdrawn:
            self._traffic.failed(_key(ask, reply.choice))

    def _measure(self, reply: Reply, usage: Mapping[str, Any] | None) -> None:
        reply.latency_ms = 1000 * (time.perf_counter() - reply.started)
        reply.prompt_tokens = int((usage or {}).get("prompt_tokens") or 0)
        reply.completion_tokens = int((usage or {}).get("completion_tokens") or 0)

    def _finish_whole(self, ask: Ask, reply: Reply, answer: Mapping[str, Any]) -> None:
        choice = answer["choices"][0]
        reply.text, reply.finish_reason = choice["message"].get("content") or "", choice.get("finish_reason")
        self._finish(ask, reply, answer.get("usage"))

    def _finish(self, ask: Ask, reply: Reply, usage: Mapping[str, Any] | None) -> None:
        self._measure(reply, usage)
        reply.format_valid = ask.served.format_valid(reply.text)
        reply.refused = ask.served.refuses(reply.text)
        _end_span(reply, "cached" if reply.cached else reply.finish_reason or "stop")
        if reply.cached:
            return
        self._traffic.answered(
            _key(ask, reply.choice),
            latency_ms=reply.latency_ms,
            format_valid=reply.format_valid,
            refused=reply.refused,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
        )


async def _in_time(ask: Ask, what: Awaitable[T]) -> T:
    """What an engine gives, if it does before the task's time is over.

    Raises:
        EngineError: It did not.
    """
    try:
        async with asyncio.timeout(ask.served.task.serving.timeout_s):
            return await what
    except TimeoutError as error:
        raise EngineError(504, "the model took too long") from error


def _key(ask: Ask, choice: Choice) -> ArmKey:
    return ArmKey(ask.served.name, choice.adapter or BASE, choice.arm)


def _end_span(reply: Reply, outcome: str, status: int | None = None) -> None:
    if reply.span is not None:
        tracing.end(reply.span, outcome, reply.prompt_tokens, reply.completion_tokens, status)
