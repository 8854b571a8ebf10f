"""Keys and tokens that their own form gives away, private keys in PEM, and logins inside URLs.

What only the name before it gives away (`password=…`) belongs in `secrets.py`.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator

from finetune_platform.privacy.finding import Finding
from finetune_platform.privacy.legible import QUOTES, Legible

TAIL = r"[A-Za-z0-9_\-]"
PREFIXES = {
    "_": "ftk ghp gho ghu ghs ghr github_pat hf npm gsk shpat shpss sk_live sk_test rk_live rk_test whsec lin_api"
    " dop_v1 r8 sntrys figd rubygems",
    "-": "sk xoxa xoxb xoxe xoxo xoxp xoxr xoxs xapp glpat glptt glrt nvapi pplx tvly pypi",
    ".": "SG ya29 hvs",
}
"""By the sign after them: our own gateway, GitHub, Hugging Face, npm, Shopify, Stripe, OpenAI, Slack, GitLab …"""


def _prefixed(sign: str, prefixes: str) -> re.Pattern[str]:
    """Anchored at the sign: it is rare in prose, and a search for one character is fast."""
    end = re.escape(sign)
    known = "|".join(rf"(?<=(?<![A-Za-z0-9]){prefix}{end})" for prefix in prefixes.split())
    return re.compile(
        rf"{end}(?={TAIL}{{16}})(?<=[A-Za-z0-9]{end})(?:{known})({TAIL}++(?:(?<=SG\.{TAIL}{{22}})\.{TAIL}++)?)"
    )


PREFIXED = {sign: _prefixed(sign, prefixes) for sign, prefixes in PREFIXES.items()}

WORDS_ONLY = re.compile(r"[a-z_\-]*")
"""`npm_config_registry_url` and `sk-spinner-in-the-middle` are no keys."""

FIXED_FORMS = (
    re.compile(
        r"A(?<![A-Za-z0-9]A)(?:"
        r"(?:KIA|SIA|GPA|IDA|ROA|NPA|NVA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
        r"|Iza[A-Za-z0-9_\-]{30,}"  # Google
        r"|TATT3[A-Za-z0-9_\-=]{20,}"  # Atlassian
        r"|GE-SECRET-KEY-1[A-Z0-9]{50,})"  # age
    ),
    re.compile(r"eyJ(?<![A-Za-z0-9_\-]eyJ)[A-Za-z0-9_\-]{5,}+\.[A-Za-z0-9_\-]{4,}+(?:\.[A-Za-z0-9_\-]*+){0,3}"),  # JWT
)
BEARER = re.compile(r"bearer(?<![a-z0-9_]bearer)[ \t]{1,3}([a-z0-9._~+/=\-]{16,})")

LOGIN = re.compile(rf"://(?<=[A-Za-z0-9]://)([^\s/?#:<>\[\]\\{QUOTES}]*:[^\s/?#<>\\{QUOTES}]+)@")

BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----")
END = re.compile(r"-----END (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----")
NOT_IN_KEY = re.compile(rf"[{QUOTES}<>{{}}]")
KEY_LINES = re.compile(r"(?:\s*[A-Za-z0-9+/=]{16,})*+")
LONGEST_KEY = 16_384


def tokens(legible: Legible) -> Iterator[Finding]:
    """Every key or token of a known form, and what follows `Bearer`."""
    text = legible.text
    for sign, pattern in PREFIXED.items():
        for match in pattern.finditer(text):
            prefix = max((p for p in PREFIXES[sign].split() if text.endswith(p, 0, match.start())), key=len)
            if not WORDS_ONLY.fullmatch(match[1]):
                yield Finding("token", match.start() - len(prefix), match.end())
    for pattern in FIXED_FORMS:
        for match in pattern.finditer(text):
            yield Finding("token", *match.span())
    for match in BEARER.finditer(legible.lower):
        if not match[1].isalpha():
            yield Finding("token", *match.span(1))


def logins(legible: Legible) -> Iterator[Finding]:
    """`user:password` of every URL that has them."""
    for match in LOGIN.finditer(legible.text):
        yield Finding("credentials", *match.span(1))


def private_keys(legible: Legible) -> Iterator[Finding]:
    """Every private key in PEM, also one whose end was cut off."""
    text = legible.text
    begins = list(BEGIN.finditer(text))
    ends = [match.end() for match in END.finditer(text)] if begins else []
    limits = [following.start() for following in begins[1:]] + [len(text)]
    for match, limit in zip(begins, limits, strict=False):
        limit = min(limit, match.end() + LONGEST_KEY)
        place = bisect_right(ends, match.end())
        if place < len(ends) and ends[place] <= limit and not NOT_IN_KEY.search(text, match.end(), ends[place]):
            yield Finding("private_key", match.start(), ends[place])
        else:
            lines = KEY_LINES.match(text, match.end())
            yield Finding("private_key", match.start(), lines.end() if lines else match.end())
