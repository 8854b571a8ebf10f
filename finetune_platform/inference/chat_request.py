"""OpenAI's chat-completion request, read for an engine of our own: what is understood, what is refused by name.

Nothing that would change the answer is silently ignored.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetune_platform.inference.chat import Body, EngineError

HARMLESS = frozenset(
    {
        "messages", "model", "stream", "stream_options", "user", "metadata", "store", "service_tier",
        "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prediction", "parallel_tool_calls",
    }
)  # fmt: skip
"""Known elsewhere, or without influence on the answer."""

ONLY: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"),
    "modalities": (["text"],),
}
"""Parameters that are understood in one way only."""

READ = frozenset({"tools", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"})

MOST_STOPS = 4


class ChatRequest(NamedTuple):
    """A request, checked.

    Attributes:
        messages: As a chat template takes them: contents are strings.
        tools: For the chat template; empty: none.
        max_tokens: None: the rest of the context.
        temperature: 0 where the request names none: what is served is what was evaluated.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]


def read_request(body: Body) -> ChatRequest:
    """The request in `body`.

    Raises:
        EngineError: 400, and the parameter that is not understood.
    """
    given = {key: value for key, value in body.items() if value is not None}
    for key, value in given.items():
        if key in ONLY:
            if value not in ONLY[key]:
                raise _refused(key, f"only {' or '.join(map(repr, ONLY[key]))} is supported")
        elif key not in HARMLESS and key not in READ:
            raise _refused(key, "is not supported")
    tools = given.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise _refused("tools", "must be a list of objects")
    return ChatRequest(
        messages=_messages(given.get("messages")),
        tools=[] if given.get("tool_choice") == "none" else tools,
        max_tokens=_whole(given, "max_completion_tokens", 1) or _whole(given, "max_tokens", 1),
        temperature=_number(given, "temperature", 0.0, 0.0, 2.0),
        top_p=_number(given, "top_p", 1.0, 0.0, 1.0),
        seed=_whole(given, "seed", None),
        stop=_stop(given.get("stop", ())),
    )


def _refused(key: str, why: str) -> EngineError:
    return EngineError(400, f"{key}: {why}")


def _messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise _refused("messages", "must be a list of messages, one at least")
    return [{**m, "content": _content(m.get("content"), f"messages[{i}].content")} for i, m in enumerate(messages)]


def _content(content: Any, where: str) -> str:
    if content is None:  # an assistant's message that only calls tools
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise _refused(where, "must be text")


def _whole(given: Body, key: str, least: int | None) -> int | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise _refused(key, "must be a whole number" + ("" if least is None else f" of {least} at least"))
    return value


def _number(given: Body, key: str, default: float, least: float, most: float) -> float:
    value = given.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
        raise _refused(key, f"must be a number from {least:g} to {most:g}")
    return float(value)


def _stop(stop: Any) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, (list, tuple)) else (None,)
    if len(texts) > MOST_STOPS or not all(isinstance(text, str) and text for text in texts):
        raise _refused("stop", f"must be a text or up to {MOST_STOPS} of them, none empty")
    return texts
