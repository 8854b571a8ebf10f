"""A row set aside while it is read: where it stood, a countable reason, the sentence for a person.

Which rows are refused is decided by the file that reads them (`messages.py`, `formats.py`, `csv_rows.py`); rows
set aside later, from a dataframe, are the business of `sifting.py`.
"""

import difflib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from finetune_platform.rows import REJECTED_CONTENT_CHARS

SHOWN_CHARS = 60


class RefusedRow(ValueError):
    """What is wrong with one row, without its place; caught where the place is known.

    Args:
        reason: A slug to count by, such as `unknown_role`.
        detail: The sentence, field first: `messages[1].role is "asistant"; did you mean "assistant"?`
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Rejected(NamedTuple):
    """One refused row, as `REJECTED_SCHEMA` stores it."""

    source_uri: str
    source_row: int
    stage: str
    reason: str
    detail: str
    content: str


def rejected(source_uri: str, source_row: int, refusal: RefusedRow, content: bytes) -> Rejected:
    """The record of a row that could not be read.

    Args:
        source_uri: The file, as messages name it.
        source_row: Its line, counted from 1.
        refusal: What is wrong.
        content: The line's bytes, or the beginning of them.
    """
    # Four bytes make at most one character, and half a character at the cut is only a replacement sign.
    text = content[: 4 * REJECTED_CONTENT_CHARS].decode("utf-8", "replace")[:REJECTED_CONTENT_CHARS]
    detail = _storable(f"{source_uri}:{source_row}: {refusal.detail}")
    return Rejected(source_uri, source_row, "parse", refusal.reason, detail, text)


def shown(value: Any) -> str:
    """A value as a message quotes it: JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def nearest(word: Any, known: Sequence[str]) -> str:
    """`; did you mean "…"?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(str(word)[:200], known, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def type_name(value: Any) -> str:
    """A JSON value's type, by the name that people who write JSON use."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _storable(text: str) -> str:
    """`text` without half surrogate pairs, which no file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
