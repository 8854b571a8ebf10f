"""Lines of a byte stream, however long or broken: number, bytes, size.

What a line means belongs in `formats.py` and `csv_rows.py`; this file never decodes.
"""

import hashlib
import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BOM = b"\xef\xbb\xbf"
HEAD_BYTES = 4096
"""How much of an over-long line is kept, to show a person which one it is."""

_DRAIN_BYTES = 1 << 20


class Line(NamedTuple):
    """One line without its ending.

    Attributes:
        number: Counted from 1.
        data: The bytes; only the first `HEAD_BYTES` of them where the line is not `complete`.
        size: Bytes of the whole line.
        complete: False where the line is longer than the reader was allowed to load.
    """

    number: int
    data: bytes
    size: int
    complete: bool

    @property
    def blank(self) -> bool:
        return self.complete and not self.data.strip()


class HashingStream(io.RawIOBase):
    """A byte stream that remembers the SHA-256 of what was read through it; wrap it in `io.BufferedReader`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._hash.update(data)
        self.bytes_read += len(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()

    @property
    def sha256(self) -> str:
        """Of the whole stream, once it has been read to its end."""
        return self._hash.hexdigest()


def read_lines(stream: BinaryIO, max_bytes: int) -> Iterator[Line]:
    """Every line of `stream`, blank ones included; never more than about three times `max_bytes` in memory.

    A byte order mark before the first line is dropped, `\\r\\n` and `\\n` both end a line, the last line needs no
    ending.

    Args:
        stream: Buffered bytes.
        max_bytes: Longest line that is loaded whole.
    """
    number = 0
    # More bytes than allowed, so that a line of exactly `max_bytes` still brings its mark and its `\r\n`.
    while chunk := stream.readline(max_bytes + 5):
        number += 1
        if number == 1:
            chunk = chunk.removeprefix(BOM)
        data = chunk.removesuffix(b"\n").removesuffix(b"\r") if chunk.endswith(b"\n") else chunk
        if len(data) <= max_bytes:
            yield Line(number, data, len(data), True)
        else:
            rest = 0 if chunk.endswith(b"\n") else _drain(stream)
            yield Line(number, data[:HEAD_BYTES], len(data) + rest, False)


def _drain(stream: BinaryIO) -> int:
    """Reads on to the end of the line; returns the bytes before its ending."""
    size = 0
    while chunk := stream.readline(_DRAIN_BYTES):
        if chunk.endswith(b"\n"):
            return size + len(chunk) - 1
        size += len(chunk)
    return size
