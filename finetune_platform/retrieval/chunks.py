"""A document cut into overlapping pieces that end where a reader would pause.

What a document is belongs in `corpus.py`.
"""

import re
from typing import NamedTuple

PAUSES = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"[.!?…。！？]['\")\]»”]*\s|[。！？]"),
    re.compile(r"\s"),
)
"""Where a piece may end, the best first: a blank line, a line's end, a sentence's, a word's."""

_WORD_START = re.compile(r"(?<=\s)\S")


class Chunk(NamedTuple):
    """A piece of a document: `text` is its characters from `start` to `end`, without white space at its ends."""

    start: int
    end: int
    text: str


def chunk(text: str, size: int, overlap: int) -> list[Chunk]:
    """Cuts a text; every character that is not white space is in some piece.

    Args:
        text: The document.
        size: Most characters of a piece.
        overlap: Characters that a piece shares with the one before; fewer where that lets it begin at a word. At most
            half of `size`.

    Returns:
        In the order of the text; none for a blank text.
    """
    pieces: list[Chunk] = []
    start = 0
    while start < len(text):
        end = (
            len(text) if len(text) - start <= size else _pause(text, start + max(size // 2, overlap + 1), start + size)
        )
        inner = text[start:end]
        first = start + len(inner) - len(inner.lstrip())
        stripped = inner.strip()
        # What is left behind a cut may be white space only: the piece before has said all then.
        if stripped and (not pieces or first + len(stripped) > pieces[-1].end):
            if pieces and pieces[-1].start == first:
                # Behind white space at its beginning, an overlap may reach back over the whole piece before.
                pieces.pop()
            pieces.append(Chunk(first, first + len(stripped), stripped))
        if end == len(text):
            break
        start = _word_start(text, end - overlap, end)
    return pieces


def _pause(text: str, least: int, most: int) -> int:
    """The end of the last pause of the best kind that ends between two places; `most` where there is none."""
    for kind in PAUSES:
        # A pause may begin before `least`; only its end counts.
        ends = [match.end() for match in kind.finditer(text, least - 1, most) if match.end() >= least]
        if ends:
            return ends[-1]
    return most


def _word_start(text: str, earliest: int, end: int) -> int:
    """The first word's beginning from `earliest` on; `earliest` where no word begins before `end`."""
    found = _WORD_START.search(text, earliest, end)
    return found.start() if found else earliest
