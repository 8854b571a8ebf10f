"""Replacing what `find` finds by typed, numbered placeholders: `[EMAIL_1]` is one address everywhere in a value."""

import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from finetune_platform.privacy.finding import PLACEHOLDER, Finding, Kind
from finetune_platform.privacy.legible import legible
from finetune_platform.privacy.phones import is_phone
from finetune_platform.privacy.search import find
from finetune_platform.privacy.secrets import is_secret

STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
NUMBER = re.compile(r"-?[0-9.eE+-]+")
AROUND_LITERALS = " \t\r\n,:[]{}"
LONGEST_NUMBER_BITS = 128
REMEMBERED, LONGEST_REMEMBERED, MOST_KEYS_REMEMBERED = 8192, 64, 16
"""Short fields that hold nothing, such as `"role": "user"`, come again in every value: they are looked at once."""

WRITTEN_DIFFERENTLY: tuple[Kind, ...] = ("phone", "card", "iban")
"""Kinds whose spaces and dashes mean nothing."""


def redact(text: str) -> tuple[str, dict[str, int]]:
    """A text with placeholders for what is personal or secret in it.

    The same value has the same number, numbers count from 1 by kind, and placeholders that stand there already keep
    theirs: redacting twice changes nothing more. Text that is a JSON object or array stays valid JSON.

    Args:
        text: Any text.

    Returns:
        The text, and how many places of each kind were replaced; kinds without any are left out.
    """
    numbers = _Numbers()
    numbers.reserve(text)
    return _redacted(text, numbers), dict(numbers.replaced)


def redact_json(value: Any) -> tuple[Any, dict[str, int]]:
    """A JSON value with placeholders for what is personal or secret in its strings, whole numbers and keys.

    Numbering is one for the whole value. Objects keep their number of entries and lists their length; a whole number
    that is a card or telephone number becomes a string. A field whose name says that it is a secret (`password`) is
    replaced whole; keys that would become one get stars behind them. Nesting may be of any depth.

    Args:
        value: What `json.loads` returns; it is not changed.

    Returns:
        A copy (the value itself where nothing was replaced), and how many places of each kind were replaced.
    """
    if _is_harmless(value):
        return value, {}
    numbers = _Numbers()
    for text in _texts(value):
        numbers.reserve(text)
    root = [value]
    unfinished: list[tuple[Any, Any, str]] = [(root, 0, "")]
    while unfinished:
        holder, place, name = unfinished.pop()
        item = holder[place]
        children: list[tuple[Any, Any, str]] = []
        if isinstance(item, dict):
            holder[place], children = _renamed(item, numbers)
        elif isinstance(item, list | tuple):
            holder[place] = copied = list(item)
            children = [(copied, index, name) for index in range(len(copied))]
        elif isinstance(item, str):
            holder[place] = _field(name, item, numbers)
        elif _is_number(item):
            replaced = _field(name, str(item), numbers)
            holder[place] = item if replaced == str(item) else replaced
        unfinished += reversed(children)
    return root[0], dict(numbers.replaced)


class _Numbers:
    """Which placeholder stands for which value, and how often one was put."""

    def __init__(self) -> None:
        self.replaced: Counter[str] = Counter()
        self._numbers: dict[tuple[Kind, str], int] = {}
        self._highest: Counter[str] = Counter()

    def reserve(self, text: str) -> None:
        """Keeps the numbers of placeholders that stand in a text already."""
        for match in PLACEHOLDER.finditer(text):
            self._highest[match[1]] = max(self._highest[match[1]], int(match[2]))

    def placeholder(self, kind: Kind, written: str) -> str:
        """What stands for a value, however it is written."""
        value = legible(written).text.casefold()
        if kind in WRITTEN_DIFFERENTLY:
            value = "".join(filter(str.isalnum, value))
        elif kind not in ("email", "ip"):
            value = written
        label = kind.upper()
        if (kind, value) not in self._numbers:
            self._highest[label] += 1
            self._numbers[kind, value] = self._highest[label]
        self.replaced[kind] += 1
        return f"[{label}_{self._numbers[kind, value]}]"


def _texts(value: Any) -> Iterator[str]:
    """Every string of a JSON value, keys too."""
    unfinished = [value]
    while unfinished:
        item = unfinished.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            unfinished += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            unfinished += item


def _is_harmless(value: Any) -> bool:
    """Whether a JSON value stays as it is: most do, and this takes a fraction of the time of replacing."""
    unfinished: list[tuple[str, Any]] = [("", value)]
    while unfinished:
        name, item = unfinished.pop()
        if isinstance(item, str):
            if not _holds_nothing(name, item):
                return False
        elif isinstance(item, dict):
            if not _are_harmless(tuple(item)):
                return False
            unfinished += [(str(key), child) for key, child in item.items()]
        elif isinstance(item, list | tuple):
            unfinished += [(name, child) for child in item]
        elif _is_number(item) and not _holds_nothing(name, str(item)):
            return False
    return True


def _is_number(item: Any) -> bool:
    """Whether it may be a telephone or card number."""
    return type(item) is int and item.bit_length() <= LONGEST_NUMBER_BITS


def _renamed(item: dict[Any, Any], numbers: _Numbers) -> tuple[dict[Any, Any], list[tuple[Any, Any, str]]]:
    """An object with its keys replaced, and its fields for the walk; no two keys become one."""
    renamed: dict[Any, Any] = {}
    fields = []
    for key, child in item.items():
        new = _redacted(key, numbers) if isinstance(key, str) else key
        while new in renamed:
            new = f"{new}*"
        renamed[new] = child
        fields.append((renamed, new, str(key)))
    return renamed, fields


def _field(name: str, text: str, numbers: _Numbers) -> str:
    if is_secret(name, text):
        return numbers.placeholder("secret", text)
    if is_phone(name, text):
        return numbers.placeholder("phone", text)
    return _redacted(text, numbers)


def _holds_nothing(name: str, text: str) -> bool:
    """Whether a field stays as it is."""
    return _looked_at(name, text) if len(name) + len(text) <= LONGEST_REMEMBERED else _looks_harmless(name, text)


def _are_harmless(keys: tuple[Any, ...]) -> bool:
    """Whether an object's keys stay as they are."""
    if len(keys) <= MOST_KEYS_REMEMBERED and max(map(len, map(str, keys)), default=0) <= LONGEST_REMEMBERED:
        return _keys_looked_at(keys)
    return all(_looks_harmless("", key) for key in keys if isinstance(key, str))


def _looks_harmless(name: str, text: str) -> bool:
    return not (is_secret(name, text) or is_phone(name, text) or find(text))


_looked_at = lru_cache(REMEMBERED)(_looks_harmless)


@lru_cache(REMEMBERED)
def _keys_looked_at(keys: tuple[Any, ...]) -> bool:
    return all(_looks_harmless("", key) for key in keys if isinstance(key, str))


def _redacted(text: str, numbers: _Numbers) -> str:
    """Looks again after replacing: what stood beside a finding and was no match may have become one."""
    while (replaced := _replaced(text, find(text), numbers)) != text:
        text = replaced
    return text


def _replaced(text: str, found: list[Finding], numbers: _Numbers) -> str:
    strings = _strings_of_json(text) if found else None
    pieces, done = [], 0
    for kind, start, end in found:
        if end <= done:
            continue
        quote = ""
        if strings is not None and not _inside(strings, start, end):
            quote = '"'
            while start > done and text[start - 1] not in AROUND_LITERALS:
                start -= 1
            while end < len(text) and text[end] not in AROUND_LITERALS:
                end += 1
            if not NUMBER.fullmatch(text, start, end):
                continue
        pieces += [text[done:start], quote, numbers.placeholder(kind, text[start:end]), quote]
        done = end
    return "".join([*pieces, text[done:]])


def _strings_of_json(text: str) -> list[tuple[int, int]] | None:
    """Where the strings of a JSON object or array stand; None for any other text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return [match.span() for match in STRING.finditer(text)]


def _inside(strings: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether a place lies between the quotes of one of the strings."""
    index = bisect_left(strings, (start, 0)) - 1
    return index >= 0 and end < strings[index][1]
