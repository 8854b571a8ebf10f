"""Rows of the interactions log on their way from the gateway to the log's keeper: a length, then JSON."""

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson

from finetune_platform.serving.interactions import FeedbackEvent, Interaction, Row

LENGTH = struct.Struct(">I")
KINDS: dict[str, type[Row]] = {"interaction": Interaction, "feedback": FeedbackEvent}
NAMES = {kind: name for name, kind in KINDS.items()}


def frame(row: Row, redact: bool) -> bytes:
    """A row as bytes.

    Args:
        row: Any row; its JSON may hold what only Python's own parser takes (lone surrogates, large integers).
        redact: Whether personal data and secrets are to be replaced.
    """
    name = NAMES[type(row)]
    try:
        data = orjson.dumps((name, redact, row))
    except TypeError:
        data = json.dumps((name, redact, asdict(row)), default=datetime.isoformat).encode()
    return LENGTH.pack(len(data)) + data


class Frames:
    """Rows out of a stream of bytes that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[Row, bool]]:
        """The rows that are whole now, each with whether it is to be redacted."""
        self._rest += piece
        start = 0
        while len(self._rest) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._rest, start)
            end = start + LENGTH.size + length
            if len(self._rest) < end:
                break
            yield _row(bytes(self._rest[start + LENGTH.size : end]))
            start = end
        del self._rest[:start]


def _row(data: bytes) -> tuple[Row, bool]:
    name, redact, values = _loads(data)
    return KINDS[name](**{**values, "timestamp": datetime.fromisoformat(values["timestamp"])}), redact


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)
