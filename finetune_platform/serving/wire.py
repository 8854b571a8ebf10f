"""Answers and errors as bytes, in OpenAI's shapes."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from finetune_platform.retrieval.index import Passage
from finetune_platform.retrieval.prompt import citations

DONE = b"data: [DONE]\n\n"

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> bytes:
    """An error as OpenAI's clients read it."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def as_answer(answer: dict[str, Any], interaction_id: str, model: str) -> dict[str, Any]:
    """An engine's `chat.completion` under the caller's names: the task's as model, the interaction's as id."""
    return {**answer, "id": interaction_id, "model": model}


def cited(part: dict[str, Any], passages: Sequence[Passage] | None) -> dict[str, Any]:
    """An answer, or one choice of it, with the passages that its prompt held; as it is for a task without a corpus."""
    return part if passages is None else {**part, "citations": citations(passages)}


def is_last(chunk: Mapping[str, Any]) -> bool:
    """Whether a streamed chunk ends its choice."""
    return any(choice.get("finish_reason") for choice in chunk["choices"])


def text_choice(answer: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A chat's only choice as one of a plain completion."""
    choice = answer["choices"][0]
    return {
        "index": index,
        "text": choice["message"].get("content") or "",
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }


def text_completion(
    choices: list[dict[str, Any]], usage: Mapping[str, int] | None, interaction_id: str, model: str
) -> dict[str, Any]:
    """A whole plain completion, or one chunk of it."""
    whole: dict[str, Any] = {
        "id": interaction_id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
    }
    return {**whole, "usage": usage} if usage is not None else whole


def text_chunk(chunk: Mapping[str, Any], index: int) -> list[dict[str, Any]]:
    """The choices of a chat chunk as those of a plain completion's chunk."""
    return [
        {
            "index": index,
            "text": choice["delta"].get("content") or "",
            "logprobs": None,
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in chunk["choices"]
    ]
