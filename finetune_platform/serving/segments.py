"""The write-ahead files' format: one record a line, its checksum before it, so that a torn line is known as one.

Writing them safely belongs in `write_ahead.py`; what is in a record is the business of who writes it.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

SUFFIX = ".log"
CHECKSUM_DIGITS = 8


class Segment(NamedTuple):
    """One write-ahead file: the `number`th of the process `writer`."""

    path: Path

    @property
    def writer(self) -> str:
        return self.path.parent.name

    @property
    def number(self) -> int:
        return int(self.path.stem)

    @classmethod
    def of(cls, folder: Path, number: int) -> "Segment":
        return cls(folder / f"{number:08d}{SUFFIX}")


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as a line: CRC-32 in hex, a space, JSON, a newline (JSON itself has none).

    Raises:
        TypeError: It is not JSON, or not Unicode text.
    """
    data = orjson.dumps(record)
    return b"%08x %b\n" % (zlib.crc32(data), data)


def decode(content: bytes) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The records of a file, and the lines that are none: a write that a crash or a full disk broke off."""
    records, torn = [], []
    for line in content.split(b"\n"):
        checksum, data = line[:CHECKSUM_DIGITS], line[CHECKSUM_DIGITS + 1 :]
        if data and checksum == b"%08x" % zlib.crc32(data):
            records.append(orjson.loads(data))
        elif line:
            torn.append(line)
    return records, torn


def segments_in(folder: Path) -> list[Segment]:
    """The files of one process, oldest first."""
    return sorted(Segment(path) for path in folder.glob(f"*{SUFFIX}"))
