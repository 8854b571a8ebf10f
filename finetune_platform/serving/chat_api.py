"""OpenAI's endpoints that answer: chat completions and plain ones, whole or streamed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from finetune_platform.inference.chat import EngineError
from finetune_platform.serving import wire
from finetune_platform.serving.answering import Ask, Reply
from finetune_platform.serving.callers import Caller
from finetune_platform.serving.documented import (
    ADMITTED,
    EVENTS,
    READ,
    SIGNED_IN,
    Answers,
    ChatCompletion,
    TextCompletion,
    answers,
    errors,
)
from finetune_platform.serving.gateway import Gateway, gateway_of
from finetune_platform.serving.openai_types import SESSION_CHARS, ChatRequest, CompletionRequest, Sampling
from finetune_platform.serving.plan import BASE, session_key
from finetune_platform.serving.requests import RequestRefused, read_request, refusal_of

SESSION_HEADER = "x-session-id"
ADAPTER_HEADER = "x-finetune-adapter"
INTERACTION_HEADER = "x-finetune-interaction"
CACHE_HEADER = "x-finetune-cache"
TASK_HEADER = "x-finetune-task"

Render = Callable[[dict[str, Any]], Mapping[str, Any] | None]


router = APIRouter()


NAMED = {ADAPTER_HEADER: "Which adapter answered.", INTERACTION_HEADER: "What to send feedback by."}
FAILURES = errors(*SIGNED_IN, *READ, *ADMITTED, 404, 502, 504)


def _json_body(model: type[Sampling]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _completed(model: type[BaseModel]) -> Answers:
    whole = answers(model, "The answer; with `stream`, chunks of it as server-sent events.", NAMED)
    return {200: {**whole[200], **EVENTS}, **FAILURES}


@router.post("/v1/chat/completions", openapi_extra=_json_body(ChatRequest), responses=_completed(ChatCompletion))
async def chat_completions(request: Request) -> Response:
    """Answers a chat. `model` is the task's name; which adapter answers is the platform's choice."""
    gateway = gateway_of(request)
    caller = gateway.caller_of(request, "answer")
    with ExitStack() as held:
        held.enter_context(gateway.limits.admitted(caller))
        asked, sent = await read_request(request, ChatRequest)
        ask = await _ask(gateway, caller, request, asked, sent, [message.plain() for message in asked.messages])
        ask = await gateway.grounding.grounded(ask)
        if not asked.stream:
            reply, answer = await _complete(gateway, caller, ask)
            return _json(
                wire.cited(wire.as_answer(answer, reply.interaction_id, asked.model), ask.passages), reply, ask
            )
        reply, chunks = await _begin(gateway, ask)

        def render(chunk: dict[str, Any]) -> Mapping[str, Any] | None:
            if not (chunk["choices"] or asked.wants_usage):
                return None
            passages = ask.passages if wire.is_last(chunk) else None
            return wire.cited(wire.as_answer(chunk, reply.interaction_id, asked.model), passages)

        return EventStream(gateway, caller, ask, reply, chunks, render, held.pop_all())


@router.post("/v1/completions", openapi_extra=_json_body(CompletionRequest), responses=_completed(TextCompletion))
async def completions(request: Request) -> Response:
    """Answers prompts without chat markup: each is one user message to the task."""
    gateway = gateway_of(request)
    caller = gateway.caller_of(request, "answer")
    with ExitStack() as held:
        held.enter_context(gateway.limits.admitted(caller))
        asked, sent = await read_request(request, CompletionRequest)
        if asked.stream and len(asked.prompts) > 1:
            raise RequestRefused(400, "prompt: one prompt at a time can be streamed", "invalid_value", "prompt")
        asks = [
            await _ask(gateway, caller, request, asked, _without_prompt(sent), [{"role": "user", "content": prompt}])
            for prompt in asked.prompts
        ]
        asks = list(await asyncio.gather(*(gateway.grounding.grounded(ask) for ask in asks)))
        if not asked.stream:
            return await _plain_completions(gateway, caller, asks, asked.model)
        reply, chunks = await _begin(gateway, asks[0])

        def render(chunk: dict[str, Any]) -> Mapping[str, Any] | None:
            if not chunk["choices"] and not asked.wants_usage:
                return None
            usage = chunk.get("usage") if asked.wants_usage else None
            choices = wire.text_chunk(chunk, 0)
            if wire.is_last(chunk):
                choices = [wire.cited(choice, asks[0].passages) for choice in choices]
            return wire.text_completion(choices, usage, reply.interaction_id, asked.model)

        return EventStream(gateway, caller, asks[0], reply, chunks, render, held.pop_all())


ENDPOINTS = {"/v1/chat/completions": chat_completions, "/v1/completions": completions}
"""By path: those of this file, for a server that asks them directly."""


def _without_prompt(sent: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sent.items() if key != "prompt"}


async def _ask(
    gateway: Gateway,
    caller: Caller,
    request: Request,
    asked: Sampling,
    sent: Mapping[str, Any],
    messages: list[dict[str, Any]],
) -> Ask:
    served = await gateway.answering_task(caller, asked.model, messages)
    named = request.headers.get(SESSION_HEADER, "")[:SESSION_CHARS] or asked.session
    session = session_key(caller.tenant, named) if named else gateway.ids.session()
    return Ask(served, {**sent, "messages": messages}, session, caller.tenant, caller.key_id, asked.stream)


async def _complete(gateway: Gateway, caller: Caller, ask: Ask) -> tuple[Reply, dict[str, Any]]:
    try:
        reply, answer = await gateway.answering.complete(ask)
    except EngineError as error:
        raise refusal_of(error) from error
    gateway.limits.charge(caller, reply.prompt_tokens + reply.completion_tokens)
    gateway.shadow.maybe(ask)
    return reply, answer


async def _begin(gateway: Gateway, ask: Ask) -> tuple[Reply, AsyncGenerator[dict[str, Any]]]:
    try:
        begun = await gateway.answering.stream(ask)
    except EngineError as error:
        raise refusal_of(error) from error
    gateway.shadow.maybe(ask)
    return begun


async def _plain_completions(gateway: Gateway, caller: Caller, asks: list[Ask], model: str) -> Response:
    choices: list[dict[str, Any]] = []
    prompt_tokens = completion_tokens = 0
    reply: Reply | None = None
    kept = True
    for index, ask in enumerate(asks):
        reply, answer = await _complete(gateway, caller, ask)
        choices.append(wire.cited(wire.text_choice(answer, index), ask.passages))
        kept = kept and bool(reply.cached)
        prompt_tokens += reply.prompt_tokens
        completion_tokens += reply.completion_tokens
    assert reply is not None  # a request has at least one prompt
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return _json(wire.text_completion(choices, usage, reply.interaction_id, model), replace(reply, cached=kept), ask)


def _json(body: Mapping[str, Any], reply: Reply, ask: Ask) -> Response:
    return Response(orjson.dumps(body), headers=_headers(reply, ask), media_type="application/json")


class EventStream(StreamingResponse):
    """A streamed answer. Whatever ends it, also a client that went before the first byte, frees what it holds."""

    def __init__(
        self,
        gateway: Gateway,
        caller: Caller,
        ask: Ask,
        reply: Reply,
        chunks: AsyncGenerator[dict[str, Any]],
        render: Render,
        held: ExitStack,
    ) -> None:
        headers = {**_headers(reply, ask), "cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(_events(chunks, render), headers=headers, media_type="text/event-stream")
        self._gateway, self._caller, self._reply, self._chunks, self._held = gateway, caller, reply, chunks, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._chunks.aclose()
                self._gateway.limits.charge(self._caller, self._reply.prompt_tokens + self._reply.completion_tokens)


async def _events(chunks: AsyncGenerator[dict[str, Any]], render: Render) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            if (shown := render(chunk)) is not None:
                yield wire.event(shown)
        yield wire.DONE
    except EngineError as error:
        # The status line is long gone: clients read an error event as a failure.
        yield b"data: " + wire.error_body(error.status, error.message) + b"\n\n"


def _headers(reply: Reply, ask: Ask) -> dict[str, str]:
    headers = {
        TASK_HEADER: ask.served.name,
        ADAPTER_HEADER: reply.choice.adapter or BASE,
        INTERACTION_HEADER: reply.interaction_id,
    }
    return {**headers, CACHE_HEADER: "hit"} if reply.cached else headers
