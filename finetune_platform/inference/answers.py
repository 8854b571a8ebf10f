"""What servers answer, checked: only a well-formed completion, chunk or error text gets past this file.

Sending requests and deciding what to do about failures belongs in `exchange.py` and `dispatch.py`.
"""

import re
from typing import Any

import orjson

from finetune_platform.inference.chat import EngineError

MAX_MESSAGE = 300
"""Characters of a server's own words that are passed on."""

_SECRETS = re.compile(
    r"(?i)(\bbearer\s+|\b(?:sk|pk|rk|api[-_ ]?key|key|token|secret)(?:\s+provided)?[-_:= \"']+)[\w.*~+/=-]{6,}"
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def completion(raw: bytes) -> dict[str, Any]:
    """A whole `chat.completion`, `usage` included.

    Raises:
        EngineError: It is something else (502).
    """
    answer = _json_object(raw)
    for choice in _choices(answer, allow_none=False):
        _checked_text(choice.get("message"), "message")
    answer["usage"] = _usage(answer) or unknown_usage(0)
    answer["object"] = "chat.completion"
    return answer


def chunk(raw: bytes) -> dict[str, Any]:
    """A `chat.completion.chunk`; it may have no choice.

    Raises:
        EngineError: It is something else, or an error that the server met after it began to answer (502).
    """
    answer = _json_object(raw)
    for choice in _choices(answer, allow_none=True):
        _checked_text(choice.get("delta"), "delta")
    _usage(answer)
    return answer


def unknown_usage(pieces: int) -> dict[str, Any]:
    """Stands for the usage that a server did not tell: as many tokens as pieces of text came."""
    return {"prompt_tokens": 0, "completion_tokens": pieces, "total_tokens": pieces, "estimated": True}


def error_text(raw: bytes, api_key: str | None) -> str:
    """The words of an error answer on one line, bounded, without keys.

    Args:
        raw: The answer's body.
        api_key: Never part of the result.
    """
    try:
        found = _message_in(orjson.loads(raw))
    except orjson.JSONDecodeError:
        found = None
    text = found if found is not None else raw[: 4 * MAX_MESSAGE].decode("utf-8", "replace")
    if api_key:
        text = text.replace(api_key, "[key]")
    text = _SECRETS.sub(r"\1[key]", _UNPRINTABLE.sub(" ", text[: 8 * MAX_MESSAGE])).strip()
    if found is None and text.startswith("<"):
        return "a page, not JSON"
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _message_in(value: Any) -> str | None:
    """OpenAI's, FastAPI's and AWS's ways to write an error."""
    for _ in range(3):
        if isinstance(value, str):
            return value
        if not isinstance(value, dict):
            return None
        value = next((value[k] for k in ("error", "message", "Message", "detail") if k in value), None)
    return value if isinstance(value, str) else None


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        kind = "a page" if raw.lstrip()[:1] == b"<" else "something that is not JSON"
        raise EngineError(502, f"the server answered {kind} ({len(raw)} bytes)") from error
    if not isinstance(answer, dict):
        raise EngineError(502, f"the server answered a JSON {type(answer).__name__}, not an object")
    if answer.get("error"):
        raise EngineError(502, f"the server reported an error within its answer: {error_text(raw, None)}")
    return answer


def _choices(answer: dict[str, Any], *, allow_none: bool) -> list[dict[str, Any]]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not (choices or allow_none):
        raise EngineError(502, "the server answered without choices")
    for choice in choices:
        if not isinstance(choice, dict):
            raise EngineError(502, "the server answered a choice that is not an object")
        if type(choice.setdefault("index", 0)) is not int or not isinstance(choice.get("finish_reason"), str | None):
            raise EngineError(502, "the server answered a choice with a wrong index or finish_reason")
    return choices


def _checked_text(said: object, name: str) -> None:
    if not isinstance(said, dict):
        raise EngineError(502, f"the server answered a choice without {name}")
    if not isinstance(said.get("content"), str | None):
        raise EngineError(502, f"the server answered {name}.content that is not text")
    if not isinstance(said.get("tool_calls"), list | None):
        raise EngineError(502, f"the server answered {name}.tool_calls that is not a list")


def _usage(answer: dict[str, Any]) -> dict[str, Any] | None:
    usage = answer.get("usage")
    if usage is None:
        return None
    if not isinstance(usage, dict) or not all(_is_count(usage.get(k)) for k in ("prompt_tokens", "completion_tokens")):
        raise EngineError(502, "the server answered usage without counts of tokens")
    return usage


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
