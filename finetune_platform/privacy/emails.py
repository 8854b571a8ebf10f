"""E-mail addresses: the form of RFC 5321 as people use it, in any script, also with `%40` as in the query of a URL.

Quoted local parts, `user@localhost` and written-out ones (`name at example dot com`) are not found.
"""

import re
from collections.abc import Iterator

from finetune_platform.privacy.finding import Finding
from finetune_platform.privacy.legible import Legible

DOMAIN = r"((?:\w++(?:-++\w++)*+\.)+(?:xn--[\w-]{2,59}|[^\W\d_]{2,63}+))"
AT = re.compile(f"@{DOMAIN}")
ENCODED_AT = re.compile(f"%40{DOMAIN}")
LOCAL_BACKWARDS = re.compile(r"[\w.+%&'~-]++")
LONGEST_LOCAL = 64
VERSION = re.compile(r"[0-9]+\.[0-9]")
"""`react@18.2.0-beta.rc` names a package."""


def emails(legible: Legible) -> Iterator[Finding]:
    """Every e-mail address."""
    text = legible.text
    for sign, pattern in (("@", AT), ("%40", ENCODED_AT)):
        if sign not in text:
            continue
        for match in pattern.finditer(text):
            start = _local_start(text, match.start())
            is_login = text[start : match.start()] == "git"
            if start < match.start() and not is_login and not VERSION.match(match[1]):
                yield Finding("email", start, match.end())


def _local_start(text: str, at: int) -> int:
    """Where the part before the sign begins; `at` where there is none."""
    before = text[max(0, at - LONGEST_LOCAL) : at]
    local = LOCAL_BACKWARDS.match(before[::-1])
    return at - len(before[len(before) - local.end() :].lstrip(".'&~%-+")) if local else at
