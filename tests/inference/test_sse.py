"""The event-stream parser: any cut of the bytes gives the same events, whatever line ends the server uses."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.inference.chat import EngineError
from finetune_platform.inference.sse import MAX_EVENT_BYTES, Event, SseParser


def parsed(pieces: list[bytes]) -> list[Event]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.end()


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(p, len(raw)) for p in places} | {0, len(raw)})
    return [raw[a:b] for a, b in itertools.pairwise(ends)]


line_text = st.binary(max_size=12).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))
fields = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([b"data: ", b"data:", b"event: ", b"id: ", b"retry: ", b": ", b"x"]), line_text),
        st.just((b"", b"")),
    ),
    max_size=20,
)


@given(
    lines=fields,
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    places=st.lists(st.integers(0, 300), max_size=20),
    bom=st.booleans(),
)
def test_any_cut_gives_the_same_events(
    lines: list[tuple[bytes, bytes]], end: bytes, places: list[int], bom: bool
) -> None:
    raw = b"\xef\xbb\xbf" * bom + b"".join(field + text + end for field, text in lines)
    whole = parsed([raw])
    assert parsed(cut(raw, places)) == whole
    assert parsed([raw[i : i + 1] for i in range(len(raw))]) == whole
    assert parsed([raw.replace(end, b"\n")]) == whole


@given(
    events=st.lists(
        st.tuples(line_text.filter(lambda b: not b.startswith(b" ")), st.lists(line_text, min_size=1, max_size=3)),
        max_size=5,
    ),
    mixed=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=40, max_size=40),
)
def test_what_was_written_is_read(events: list[tuple[bytes, list[bytes]]], mixed: list[bytes]) -> None:
    ends = iter(mixed)
    raw = b""
    for name, lines in events:
        raw += b": a comment" + next(ends) + b"event: " + name + next(ends)
        raw += b"".join(b"data: " + line + next(ends) for line in lines)
        # A lone CR before a lone LF would be one line end, not two.
        raw += b"\n" if not raw.endswith(b"\r") else b"\r"
    assert parsed([raw]) == [Event(name, b"\n".join(lines)) for name, lines in events]


def test_an_event_is_there_as_soon_as_its_blank_line_is() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\r") == [Event(b"", b"a")]
    assert parser.feed(b"\ndata: b\r\r") == [Event(b"", b"b")]


def test_the_last_event_needs_no_blank_line() -> None:
    assert parsed([b"data: [DONE]"]) == [Event(b"", b"[DONE]")]


@pytest.mark.parametrize("piece", [b"x" * 2**20, b"data: " + b"x" * 2**20 + b"\n"])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    parser = SseParser()
    with pytest.raises(EngineError) as caught:
        for _ in range(MAX_EVENT_BYTES // 2**20 + 2):
            parser.feed(piece)
    assert caught.value.status == 502
