"""One row of each format as a draft of an example, from its JSON keys.

Lines and files belong in `sources.py`, CSV in `csv_rows.py`, the messages themselves in `messages.py`, what a row of
two answers or of a judged one must be in `preference_rows.py`.
"""

import json
import re
from typing import Any, NamedTuple, NoReturn

from finetune_platform.curation.messages import check_turns, objects_of, read_messages, text_of, turns_of
from finetune_platform.curation.preference_rows import read_judged, read_pair
from finetune_platform.curation.rejections import RefusedRow, nearest, shown, type_name
from finetune_platform.identity import canonical_json
from finetune_platform.rows import Kind, Message
from finetune_platform.task import SourceFormat

NEEDED_KEYS: dict[SourceFormat, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "input_ideal": ("input", "ideal"),
    "preference": ("chosen", "rejected"),
    "unpaired_preference": ("prompt", "completion", "label"),
    "text": ("text",),
}
OPTIONAL_KEYS: dict[SourceFormat, tuple[str, ...]] = {"preference": ("prompt", "tools"), "text": ()}
"""What else a row of these formats may have; rows of the others may have `tools`."""

LABEL_KEYS = ("task_type", "difficulty", "group")
"""Keys of any JSON row that name its strata, and the group that no split may cut."""

IGNORED_KEYS = ("id", "metadata", "parallel_tool_calls")

_HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class OtherFormat(RefusedRow):
    """A good row of another format than its source's."""

    def __init__(self, looks_like: SourceFormat, declared: SourceFormat) -> None:
        super().__init__("mixed_format", f"this row looks like {looks_like}, but the source's format is {declared}")
        self.looks_like = looks_like


class Draft(NamedTuple):
    """What one row says; the rest of an example is its place and its source's options."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    task_type: str = ""
    difficulty: str = ""
    group: str = ""
    own_system_prompt: bool = False
    kind: Kind = "sft"
    rejected: Message | None = None
    desirable: bool | None = None
    text: str | None = None


def parse_json(data: bytes) -> Any:
    """The JSON value of one line.

    Raises:
        RefusedRow: It is not UTF-8, or not JSON that can be written out again.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedRow(
            "not_utf8", f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
        ) from None
    try:
        value = json.loads(text, parse_constant=_not_json, parse_float=_finite)
        if _HALF_SURROGATE.search(text):
            canonical_json(value).encode("utf-8")
    except UnicodeEncodeError:
        raise RefusedRow("not_utf8", "a \\ud… escape is half of a surrogate pair; write the whole character") from None
    except json.JSONDecodeError as error:
        raise RefusedRow("invalid_json", f"not JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise RefusedRow("invalid_json", "the JSON is nested too deeply") from None
    except ValueError as error:
        raise RefusedRow("invalid_json", f"not JSON: {error}") from None
    return value


def looks_like(value: Any) -> SourceFormat | None:
    """The format whose keys a JSON value has; of several the one that needs most of them."""
    if not isinstance(value, dict):
        return None
    fitting = [name for name, keys in NEEDED_KEYS.items() if all(key in value for key in keys)]
    return max(fitting, key=lambda name: len(NEEDED_KEYS[name]), default=None)


def read_row(value: Any, fmt: SourceFormat) -> Draft:
    """A row of format `fmt`, checked.

    Raises:
        RefusedRow: With the first field that is wrong; `OtherFormat` for a row of another format.
    """
    _check_keys(value, fmt)
    tools = objects_of(value["tools"], "tools") if value.get("tools") else None
    task_type, difficulty, group = (_label(value, key) for key in LABEL_KEYS)
    return _content(value, fmt)._replace(tools=tools, task_type=task_type, difficulty=difficulty, group=group)


def _content(value: dict[str, Any], fmt: SourceFormat) -> Draft:
    match fmt:
        case "text":
            return Draft([], kind="text", text=text_of(value["text"], "text"))
        case "preference":
            messages, rejected = read_pair(value)
            return Draft(messages, kind="preference", rejected=rejected)
        case "unpaired_preference":
            messages, desirable = read_judged(value)
            return Draft(messages, kind="unpaired_preference", desirable=desirable)
        case "messages":
            messages = read_messages(value["messages"])
        case "prompt_completion":
            completion = turns_of(value["completion"], "completion", "assistant")
            messages = [*turns_of(value["prompt"], "prompt", "user"), *completion]
        case _:
            answer = Message(role="assistant", content=_ideal(value["ideal"]))
            messages = [*turns_of(value["input"], "input", "user"), answer]
    check_turns(messages, "messages" if fmt == "messages" else "the row")
    return Draft(messages)


def _check_keys(value: Any, fmt: SourceFormat) -> None:
    if not isinstance(value, dict):
        raise RefusedRow("wrong_type", f"the line is {type_name(value)}; a row is a JSON object")
    needed = NEEDED_KEYS[fmt]
    known = (*needed, *OPTIONAL_KEYS.get(fmt, ("tools",)), *LABEL_KEYS, *IGNORED_KEYS)
    missing = [key for key in needed if key not in value]
    unknown = [key for key in value if key not in known]
    other = looks_like(value)
    if other and other != fmt and (missing or (unknown and unknown[0] in NEEDED_KEYS[other])):
        raise OtherFormat(other, fmt)
    if missing:
        near = next((f"; is {shown(key)} meant?" for key in unknown if nearest(key, missing)), "")
        raise RefusedRow("missing_key", f"{shown(missing[0])} is missing; the row has {_listed(value)}{near}")
    if unknown:
        raise RefusedRow("unknown_key", f"unknown key {shown(unknown[0])}{nearest(unknown[0], known)}")


def _listed(value: dict[str, Any]) -> str:
    return ", ".join(shown(key) for key in list(value)[:6]) or "no keys"


def _ideal(value: Any) -> str:
    if isinstance(value, list):
        if not value:
            raise RefusedRow("empty_content", "ideal is an empty list; it needs an answer")
        return text_of(value[0], "ideal[0]")
    return text_of(value, "ideal")


def _label(value: dict[str, Any], key: str) -> str:
    label = value.get(key)
    if isinstance(label, int) and not isinstance(label, bool):
        return str(label)
    return "" if label is None else text_of(label, key)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return number
