"""What is personal or secret in a text: every finder asked, and one finding kept where several overlap."""

from collections.abc import Callable, Iterator

from finetune_platform.privacy.cards import cards
from finetune_platform.privacy.emails import emails
from finetune_platform.privacy.finding import Finding
from finetune_platform.privacy.ibans import ibans
from finetune_platform.privacy.ips import ips
from finetune_platform.privacy.legible import Legible, legible
from finetune_platform.privacy.phones import phones
from finetune_platform.privacy.secrets import secrets
from finetune_platform.privacy.tokens import logins, private_keys, tokens

FINDERS: tuple[Callable[[Legible], Iterator[Finding]], ...] = (
    private_keys,
    tokens,
    logins,
    ibans,
    cards,
    ips,
    emails,
    secrets,
)
"""The more specific first. Telephone numbers have no checksum: they are looked for in what is left."""

SHORTEST = 6
"""`a@b.cc`."""


def find(text: str) -> list[Finding]:
    """What is personal or secret in a text, in order, without overlaps.

    Of findings inside each other the longest is kept, of equally long or crossing ones the most specific. Takes time in
    proportion to the text's length, whatever stands in it.

    Args:
        text: Any text, also JSON or other structured text.
    """
    if len(text) < SHORTEST or text.isalpha():
        return []
    plain = rest = legible(text)
    found: list[Finding] = []
    cut = True
    while cut:
        candidates = [(rank, f) for rank, finder in enumerate(FINDERS) for f in finder(rest)]
        kept, cut = _without_overlaps([c for c in candidates if not found or not rest.is_masked(c[1])])
        found = sorted([*found, *kept], key=_start)
        rest = plain.without(found) if kept else rest
    found += phones(rest)
    return [plain.in_original(finding) for finding in sorted(found, key=_start)]


def _start(finding: Finding) -> int:
    return finding.start


def _without_overlaps(candidates: list[tuple[int, Finding]]) -> tuple[list[Finding], bool]:
    """The findings to keep, in order, and whether one was dropped that lies only partly in a kept one.

    Args:
        candidates: Findings with their rank; the lowest is the most specific.
    """
    kept: list[tuple[int, Finding]] = []
    cut = False
    for rank, finding in sorted(candidates, key=lambda candidate: (candidate[1].start, candidate[0])):
        if not kept or kept[-1][1].end <= finding.start:
            kept.append((rank, finding))
            continue
        last_rank, last = kept[-1]
        if finding.end <= last.end:
            continue
        partly = finding.start > last.start
        cut = cut or partly
        if not partly or rank < last_rank:
            kept[-1] = (rank, finding)
    return [finding for _, finding in kept], cut
