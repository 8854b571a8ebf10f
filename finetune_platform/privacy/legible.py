"""A text as the finders read it: ASCII digits, spaces and dashes, no invisible characters, no escapes.

People and programs write `＋49 30…`, put zero-width characters and non-breaking spaces between digits, or send JSON
inside a string, where a line break is `\\n` and `ü` may be `\\u00fc`. Here such a text becomes one that plain patterns
match, and what they find is told in positions of the original. What the finders look for belongs in their own files.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property, lru_cache

from finetune_platform.privacy.finding import Finding

ESCAPE = re.compile(r'\\(?<!\\\\)(\\*+)(?:u([0-9a-fA-F]{4})|([nrtbf"/]))')
"""An escape of JSON, of JSON inside JSON and so on: any number of backslashes."""

FIRST_ESCAPED_QUOTE, LEVELS = 0xE000, 16
QUOTES = "\"'`" + chr(FIRST_ESCAPED_QUOTE) + "-" + chr(FIRST_ESCAPED_QUOTE + LEVELS)
"""For a character class. A quote of inner JSON becomes a private character, one a level: a value ends with the quote
that opened it, and inner quotes do not end an outer value."""

ASCII_BYTES = bytes(range(128))
DIGITS_AS_ZERO = dict.fromkeys("123456789", "0")
ZERO_TABLE = str.maketrans("123456789", "000000000")
HYPHENS = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))
"""Characters that show nothing, beside those of category Cf."""

MASK = "\0"
MANY = 16
"""From so many different characters on, one `translate` is faster than a `replace` for each."""


class Legible:
    """A text made legible, and the way back.

    Attributes:
        text: What the finders read.
    """

    def __init__(self, text: str, plain_from: tuple[int, ...] = (), shifts: tuple[int, ...] = ()) -> None:
        self.text = text
        self._plain_from = plain_from
        self._shifts = shifts

    @cached_property
    def shape(self) -> str:
        """`text` with every digit as 0: patterns that begin with one fixed character are found ten times faster."""
        if self.text.isascii():
            return self.text.translate(ZERO_TABLE)
        return _replace_each(self.text, DIGITS_AS_ZERO)

    @cached_property
    def lower(self) -> str:
        """`text` in lower case, character for character."""
        return self.text.lower()

    def without(self, findings: Iterable[Finding]) -> "Legible":
        """The same text with what was found already made unfindable; positions stay."""
        pieces, done = [], 0
        for finding in findings:
            pieces += [self.text[done : finding.start], MASK * (finding.end - finding.start)]
            done = finding.end
        return Legible("".join([*pieces, self.text[done:]]), self._plain_from, self._shifts)

    def in_original(self, finding: Finding) -> Finding:
        """A finding in `text` as one in the text it was made from.

        What was dropped before a character belongs to it, so that an escape is replaced whole.
        """
        if not self._plain_from:
            return finding
        start = self._original(finding.start - 1) + 1 if finding.start else 0
        return Finding(finding.kind, start, self._original(finding.end - 1) + 1)

    def _original(self, index: int) -> int:
        unit = bisect_right(self._plain_from, index) - 1
        return index + (self._shifts[unit] if unit >= 0 else 0)


def legible(original: str) -> Legible:
    """Makes a text legible; one in plain ASCII without backslashes is taken as it is."""
    exotic = _exotic(original)
    invisible = "".join(character for character, plain in exotic.items() if not plain)
    if not invisible and "\\" not in original:
        return Legible(_replace_each(original, exotic))
    pieces, plain_from, shifts = [], [], []
    done = length = 0
    for start, end, replacement in _units(original, invisible):
        pieces += [original[done:start], replacement]
        length += start - done
        plain_from.append(length)
        length += len(replacement)
        shifts.append(end - length)
        done = end
    text = _replace_each("".join([*pieces, original[done:]]), {c: plain for c, plain in exotic.items() if plain})
    return Legible(text, tuple(plain_from), tuple(shifts))


def _units(original: str, invisible: str) -> list[tuple[int, int, str]]:
    """Where what stands for one character or none, and for which."""
    units = [(match.start(), match.end(), "") for sign in invisible for match in re.finditer(sign, original)]
    for match in ESCAPE.finditer(original):
        backslashes, code, letter = match.groups()
        character = chr(int(code, 16)) if code else letter
        if character == '"':
            character = _quote(1 + len(backslashes))
        elif code or letter == "/":
            character = _plain(character)
        else:
            character = "\n"
        units.append((match.start(), match.end(), character))
    return sorted(units)


def _quote(backslashes: int) -> str:
    """The quote behind so many backslashes: 1, 3, 7 … make it one of the first, second, third inner JSON text."""
    level = ((backslashes + 1) & ~backslashes).bit_length() - 1
    return chr(FIRST_ESCAPED_QUOTE + min(level, LEVELS)) if level else '"'


def _exotic(text: str) -> dict[str, str]:
    """The characters in a text that are read as others, and as which."""
    if text.isascii():
        return {}
    rest = text.encode("utf-8", "surrogatepass").translate(None, ASCII_BYTES).decode("utf-8", "surrogatepass")
    return {character: plain for character in set(rest) if (plain := _plain(character)) != character}


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """What one character is read as; empty for one that shows nothing."""
    category = unicodedata.category(character)
    if category == "Cf" or character in UNSEEN:
        return ""
    if category == "Zs":
        return " "
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if character in HYPHENS:
        return "-"
    if character == "İ":
        return "I"
    compatible = unicodedata.normalize("NFKC", character)
    return compatible if category != "No" and len(compatible) == 1 and compatible.isascii() else character


def _replace_each(text: str, table: dict[str, str]) -> str:
    if len(table) > MANY:
        return text.translate({ord(character): plain for character, plain in table.items()})
    for character, plain in table.items():
        text = text.replace(character, plain)
    return text
