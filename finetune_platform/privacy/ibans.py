"""IBANs: the length that the country has in the SWIFT registry, and the check digits of ISO 7064 (mod 97)."""

import re
from collections.abc import Iterator
from functools import lru_cache

from finetune_platform.privacy.finding import Finding
from finetune_platform.privacy.legible import Legible

COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
LENGTHS = {country: length for length, countries in COUNTRIES.items() for country in countries.split()}

CHECK_DIGITS = re.compile(r"00(?<=(?<![A-Za-z0-9])[A-Za-z]{2}00)")
"""Over the text's shape."""


def ibans(legible: Legible) -> Iterator[Finding]:
    """Every IBAN, in groups or without, in upper or lower case."""
    text = legible.text
    for match in CHECK_DIGITS.finditer(legible.shape):
        start = match.start() - 2
        length = LENGTHS.get(text[start : start + 2].upper())
        account = _account(length - 4).match(text, match.end()) if length else None
        if account and _checks(re.sub("[ -]", "", text[start : account.end()])):
            yield Finding("iban", start, account.end())


@lru_cache
def _account(length: int) -> re.Pattern[str]:
    return re.compile(rf"(?:[ \-]{{0,2}}[A-Za-z0-9]){{{length}}}(?![A-Za-z0-9])")


def _checks(iban: str) -> bool:
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1
