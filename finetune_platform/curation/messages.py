"""A list of chat messages, checked field by field: what OpenAI's chat format allows, and what is wrong if not.

Which keys of a row hold messages belongs in `formats.py`.
"""

import typing
from typing import Any

from finetune_platform.curation.rejections import RefusedRow, nearest, shown, type_name
from finetune_platform.rows import Message, Role

ROLES: tuple[str, ...] = typing.get_args(Role)
ROLE_ALIASES = {"developer": "system"}
"""OpenAI renamed the system role for its newer models."""

KEYS = tuple(Message.model_fields)
IGNORED_WHEN_EMPTY = ("refusal", "annotations", "audio", "function_call")
"""Keys that API responses carry as null or [], and that a saved conversation therefore often has."""

MAX_DEPTH = 32
"""Nesting of tools and tool calls: deeper values overflow the stack of whoever writes them out."""


def read_messages(value: Any, field: str = "messages") -> list[Message]:
    """A list of messages in canonical form: text parts joined, `\\r\\n` as `\\n`, weight 1 (the default) dropped.

    Raises:
        RefusedRow: With the first field that is wrong.
    """
    if not isinstance(value, list):
        raise RefusedRow("wrong_type", f"{field} is {type_name(value)}; it must be a list of messages")
    if not value:
        raise RefusedRow("empty_content", f"{field} is an empty list; it needs a user and an assistant message")
    return [_read_message(item, f"{field}[{index}]") for index, item in enumerate(value)]


def turns_of(value: Any, field: str, role: Role) -> list[Message]:
    """A list of messages, or a text as one message of `role`.

    Raises:
        RefusedRow: With the first field that is wrong.
    """
    if isinstance(value, list):
        return read_messages(value, field)
    return [Message(role=role, content=text_of(value, field))]


def check_turns(messages: list[Message], field: str = "messages") -> None:
    """A row must end with the answer to train on, after something to answer.

    Raises:
        RefusedRow: Where it does not.
    """
    if not any(m.role == "assistant" for m in messages):
        raise RefusedRow("no_assistant_turn", f"{field} has no assistant message, so there is nothing to learn")
    if (last := messages[-1].role) != "assistant":
        problem = f'{field}[{len(messages) - 1}].role is "{last}"; the last message must be the assistant\'s'
        raise RefusedRow("last_turn_not_assistant", problem)
    if not any(m.role == "user" for m in messages):
        raise RefusedRow("no_user_turn", f"{field} has no user message before the answer")
    if all(m.weight == 0 for m in messages if m.role == "assistant"):
        raise RefusedRow("no_assistant_turn", f"every assistant message of {field} has weight 0: nothing to learn")


def text_of(value: Any, field: str) -> str:
    """A string field, with `\\n` line ends.

    Raises:
        RefusedRow: It is missing or of another type.
    """
    if value is None:
        raise RefusedRow("empty_content", f"{field} is missing or null; it must be a string")
    if not isinstance(value, str):
        raise RefusedRow("wrong_type", f"{field} is {type_name(value)}; it must be a string")
    return value.replace("\r\n", "\n")


def objects_of(value: Any, field: str) -> list[dict[str, Any]]:
    """A list of JSON objects: tools, or tool calls.

    Raises:
        RefusedRow: It is something else, or too deep.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RefusedRow("wrong_type", f"{field} must be a list of objects")
    level, depth = list(value), 1
    while level := [v for item in level for v in (item.values() if isinstance(item, dict) else item) if _nests(v)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise RefusedRow("wrong_type", f"{field} is nested deeper than {MAX_DEPTH} levels")
    return value


def _nests(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _read_message(value: Any, field: str) -> Message:
    if not isinstance(value, dict):
        raise RefusedRow("wrong_type", f"{field} is {type_name(value)}; a message is an object with role and content")
    for key in value:
        if key not in KEYS and not (key in IGNORED_WHEN_EMPTY and not value[key]):
            raise RefusedRow("unknown_key", f"{field} has the unknown key {shown(key)}{nearest(key, KEYS)}")
    role = _role(value, field)
    tool_calls = objects_of(value["tool_calls"], f"{field}.tool_calls") if value.get("tool_calls") else None
    return Message.model_validate(
        {
            "role": role,
            "content": None if tool_calls and value.get("content") is None else _content(value, field),
            "name": _optional_text(value, "name", field),
            "weight": _weight(value, role, field),
            "tool_calls": tool_calls,
            "tool_call_id": _optional_text(value, "tool_call_id", field),
        }
    )


def _role(value: dict[str, Any], field: str) -> str:
    role = value.get("role")
    if role is None:
        raise RefusedRow("unknown_role", f"{field}.role is missing; it is one of {', '.join(ROLES)}")
    role = ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        hint = nearest(role, ROLES) or f"; it must be one of {', '.join(ROLES)}"
        raise RefusedRow("unknown_role", f"{field}.role is {shown(role)}{hint}")
    return str(role)


def _content(value: dict[str, Any], field: str) -> str:
    content = value.get("content")
    if not isinstance(content, list):
        return text_of(content, f"{field}.content")
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise RefusedRow("wrong_type", f"{field}.content[{index}] is not a text part; only text can be trained on")
        texts.append(text_of(part.get("text"), f"{field}.content[{index}].text"))
    return "".join(texts)


def _optional_text(value: dict[str, Any], key: str, field: str) -> str | None:
    return None if value.get(key) is None else text_of(value[key], f"{field}.{key}")


def _weight(value: dict[str, Any], role: str, field: str) -> float | None:
    weight = value.get("weight")
    if weight is None:
        return None
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RefusedRow("wrong_type", f"{field}.weight is {shown(weight)}; it must be 0 or 1")
    if role != "assistant":
        raise RefusedRow("unknown_key", f"{field}.weight stands on a {role} message; only assistant messages have one")
    return None if weight == 1 else 0.0
