"""Lines: every byte arrives once, and a line beyond the limit never does."""

import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.curation.lines import BOM, HashingStream, read_lines
from finetune_platform.locations import ChunkStream


class Endless(io.RawIOBase):
    """A line of `size` bytes, made as it is read."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self.left)
        buffer[:size] = b"x" * size
        self.left -= size
        return size


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=12).filter(lambda b: b"\n" not in b and not b.endswith(b"\r")), max_size=8))
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_lines_are_what_was_joined(ending: bytes, lines: list[bytes]) -> None:
    data = ending.join(lines) + ending
    read = list(read_lines(io.BytesIO(BOM + data), max_bytes=12))
    assert [line.data for line in read] == (lines or [b""])
    assert [line.number for line in read] == list(range(1, len(read) + 1))
    assert all(line.complete and line.size == len(line.data) for line in read)


def test_last_line_needs_no_ending() -> None:
    assert [line.data for line in read_lines(io.BytesIO(b"a\nb"), 10)] == [b"a", b"b"]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_limit_counts_the_line_without_its_ending(ending: bytes) -> None:
    exact, over = (
        list(read_lines(io.BytesIO(b"x" * 10 + ending), 10)),
        list(read_lines(io.BytesIO(b"x" * 11 + ending), 10)),
    )
    assert [(line.size, line.complete) for line in exact] == [(10, True)]
    assert [line.complete for line in over] == [False]


def test_a_line_after_an_overlong_one_is_read() -> None:
    lines = list(read_lines(io.BytesIO(b"a\n" + b"x" * 5_000_000 + b"\nb\n"), 100))
    assert [(line.number, line.size, line.complete) for line in lines] == [
        (1, 1, True),
        (2, 5_000_000, False),
        (3, 1, True),
    ]


def test_memory_is_bounded_by_the_limit_not_by_the_line() -> None:
    tracemalloc.start()
    (line,) = read_lines(io.BufferedReader(Endless(100_000_000)), max_bytes=2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (line.size, line.complete) == (100_000_000, False)
    assert peak < 3.5 * 2_000_000 + 3_000_000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=6))
def test_streams_pass_bytes_on_unchanged(chunks: list[bytes]) -> None:
    import hashlib

    hashing = HashingStream(io.BufferedReader(ChunkStream(iter(chunks))))
    with io.BufferedReader(hashing) as stream:
        assert stream.read() == b"".join(chunks)
    assert hashing.sha256 == hashlib.sha256(b"".join(chunks)).hexdigest()
