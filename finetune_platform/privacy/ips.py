"""IPv4 and IPv6 addresses, loopback and unspecified ones aside: those say nothing about anybody.

`2.1.3.4` may be an address, a clause of a contract or a version; the words around it decide, see `NUMBERED`.
"""

import ipaddress
import re
from collections.abc import Iterator

from finetune_platform.privacy.finding import Finding
from finetune_platform.privacy.legible import Legible

FOUR = re.compile(r"0(?<![\w.]0)0{0,2}\.0{1,3}\.0{1,3}\.0{1,3}(?!\w|\.0|-[A-Za-z])")
NUMBERED = re.compile(
    r"""(?:\b(?:sections?|clauses?|articles?|paragraphs?|paras?|sub-?(?:section|clause|paragraph)s?|schedules?
    |annex(?:es)?|appendix|chapters?|items?|parts?|exhibits?|tables?|figures?|ziffer|abschnitt|artikel|nummer
    |versions?|ver|v|release|build|firmware|oid)\b\.?|§{1,2})\s*
    ((?:[0-9.]+(?:\([a-z0-9]+\))*\s*(?:,|;|and|or|to|through|und|&|-)*\s*)*+)\Z""",
    re.VERBOSE | re.IGNORECASE,
)
"""Before a number of a clause or version, also the second in a list of them."""

PRODUCT = re.compile(r"[A-Z][A-Za-z]+/\Z")
HEADING = re.compile(r"\.?[ \t]+[A-Za-z]")
LARGEST_CLAUSE = 30
BEFORE = 64

LONGEST_SIX = 46
COLONS = re.compile(r":(?=[0-9A-Fa-f]{0,4}:)")
FIRST_GROUP = re.compile(r"(?<![\w.])[0-9A-Fa-f]{0,4}\Z")
SIX = re.compile(r"[0-9A-Fa-f:]++(?:\.[0-9]{1,3}){0,3}")
ALLOCATED = re.compile(r"[23][0-9a-f]{3}:|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:|ff[0-9a-f]{2}:|64:ff9b:", re.IGNORECASE)
"""What the compressed form must begin with: `a[1::2]` and `std::dec` are programs."""


def ips(legible: Legible) -> Iterator[Finding]:
    """Every IP address."""
    for match in FOUR.finditer(legible.shape):
        start, end = match.span()
        if _says_where(legible.text[start:end]) and not _is_number(legible.text, start, end):
            yield Finding("ip", start, end)
    yield from _sixes(legible.text)


def _says_where(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _is_number(text: str, start: int, end: int) -> bool:
    """Whether four numbers with dots number a clause or a version."""
    before = text[max(0, start - BEFORE) : start]
    small = max(map(int, text[start:end].split("."))) < LARGEST_CLAUSE
    if numbered := NUMBERED.search(before):
        return small or not numbered[1]
    if PRODUCT.search(before):
        return True
    opens_line = not before.rpartition("\n")[2].strip()
    return opens_line and small and HEADING.match(text, end) is not None


def _sixes(text: str) -> Iterator[Finding]:
    done = 0
    for match in COLONS.finditer(text):
        if match.start() < done:
            continue
        first = FIRST_GROUP.search(text, max(done, match.start() - 5), match.start())
        if first is None:
            continue
        done = SIX.match(text, first.start()).end()  # type: ignore[union-attr]  # it begins with what matched
        found = _six(text[first.start() : done])
        if found and not text[done : done + 1].isalnum():
            yield Finding("ip", first.start(), first.start() + len(found))


def _six(candidate: str) -> str:
    """The address that `candidate` is, without a colon that ends a phrase; empty for none."""
    if len(candidate) > LONGEST_SIX or ("::" not in candidate and candidate.count(":") < 6):
        return ""
    if candidate.endswith(":") and not candidate.endswith("::"):
        candidate = candidate[:-1]
    if "::" in candidate and "." not in candidate and not ALLOCATED.match(candidate):
        return ""
    return candidate if _says_where(candidate) else ""
