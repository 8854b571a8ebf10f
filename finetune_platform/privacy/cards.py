"""Payment card numbers: a known prefix, a length that its issuer uses, and the Luhn check digit (ISO/IEC 7812).

One in ten other numbers with such a prefix and length passes too: a checksum of one digit cannot tell more.
"""

import re
from collections.abc import Iterator

from finetune_platform.privacy.finding import Finding
from finetune_platform.privacy.legible import Legible

GAP = r"(?:[ .\-]{1,3})"
CANDIDATE = re.compile(
    r"0(?<![\w.]0)(?=("
    rf"0{{11,18}}|0{{3}}{GAP}?0{{4}}{GAP}?0{{4}}{GAP}?0{{4}}({GAP}0{{1,3}})?|0{{3}}{GAP}0{{6}}{GAP}0{{4,5}}"
    rf"|0{{5}}{GAP}0{{6,13}}|0{{7}}{GAP}0{{8}}"
    r")(?!\w))"
)
"""Over the text's shape. A lookahead, because a card may begin inside what looked like one and was none."""

PREFIXES: tuple[tuple[int, int, range | tuple[int, ...]], ...] = (
    (2200, 2204, range(16, 20)),  # Mir
    (2221, 2720, (16,)),  # Mastercard
    (3000, 3059, range(14, 20)),  # Diners Club
    (3095, 3095, range(14, 20)),
    (3400, 3499, (15,)),  # American Express
    (3528, 3589, range(16, 20)),  # JCB
    (3600, 3699, range(14, 20)),
    (3700, 3799, (15,)),
    (3800, 3999, range(14, 20)),
    (4000, 4999, (13, 16, 19)),  # Visa
    (5000, 5099, range(12, 20)),  # Maestro, Verve, Dankort
    (5100, 5599, (16,)),  # Mastercard
    (5600, 5899, range(12, 20)),  # Maestro
    (6000, 6999, range(12, 20)),  # Discover, UnionPay, Maestro, RuPay
    (8100, 8299, range(16, 20)),  # UnionPay, RuPay
    (9792, 9792, (16,)),  # Troy
)
"""First four digits from, to, and the lengths that cards with them have."""

DOUBLED = str.maketrans("0123456789", "0246813579")
"""Twice a digit, and the digits of that added up."""


def cards(legible: Legible) -> Iterator[Finding]:
    """Every payment card number; the longest where a shorter one begins at the same place."""
    done = 0
    for match in CANDIDATE.finditer(legible.shape):
        start = match.start()
        if start < done:
            continue
        for end in (match.end(1), match.start(2)):
            if end > start and _is_card(re.sub("[ .-]", "", legible.text[start:end])):
                yield Finding("card", start, end)
                done = end
                break


def _is_card(digits: str) -> bool:
    first = int(digits[:4])
    if not any(low <= first <= high and len(digits) in lengths for low, high, lengths in PREFIXES):
        return False
    checked = digits[::-2] + digits[-2::-2].translate(DOUBLED)
    return sum(map(int, checked)) % 10 == 0
