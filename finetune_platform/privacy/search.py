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
    plain = legible(text)
    found = _without_overlaps([(rank, f) for rank, finder in enumerate(FINDERS) for f in finder(plain)])
    found += phones(plain.without(found) if found else plain)
    return [plain.in_original(finding) for finding in sorted(found, key=lambda finding: finding.start)]


def _without_overlaps(candidates: list[tuple[int, Finding]]) -> list[Finding]:
    """The findings to keep, in order.

    Args:
        candidates: Findings with their rank; the lowest is the most specific.
    """
    kept: list[tuple[int, Finding]] = []
    for rank, finding in sorted(candidates, key=lambda candidate: (candidate[1].start, candidate[0])):
        if not kept or kept[-1][1].end <= finding.start:
            kept.append((rank, finding))
            continue
        last_rank, last = kept[-1]
        contains_last = finding.start == last.start and finding.end > last.end
        crosses_last = finding.start > last.start and finding.end > last.end
        if contains_last or (crosses_last and rank < last_rank):
            kept[-1] = (rank, finding)
    return [finding for _, finding in kept]
