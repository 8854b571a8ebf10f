"""Secrets that the name before them gives away: `password=…`, `"api_key": "…"`, `my password is …`.

How much a value must look like a secret depends on how clearly the name says that it is one.
"""

import re
from collections.abc import Iterator
from typing import Literal

from finetune_platform.privacy.finding import PLACEHOLDER, Finding
from finetune_platform.privacy.legible import QUOTES, Legible

Strength = Literal["password", "clear", "vague"]

WORDS = {
    "pass": r"pass(?:w(?:or)?d|wort|phrase|code)?",
    "pwd": "pwd",
    "secret": "secret",
    "auth": "auth(?:orization)?",
    "key": "key",
    "token": "token",
    "sig": "sig(?:nature)?",
}
"""What a name must end with, by the letters to search for first."""

NUMBERED = r"s?(?:[_-]?[0-9]{1,3})?"
ASSIGNED = rf"([{QUOTES}]?)[ \t]{{0,3}}(:=|=>|=|:|(?<=[ \t])(?:is|ist|lautet)\b:?)[ \t]{{0,3}}"
ASSIGNMENTS = {word: re.compile(f"{form}{NUMBERED}{ASSIGNED}") for word, form in WORDS.items()}
NAME = re.compile(rf"(?:{'|'.join(WORDS.values())}){NUMBERED}\Z")
PASSWORD = re.compile(rf"(?:passw(?:or)?d|passwort|pass(?:phrase|code)|pwd|(?:\A|[_.-])pass){NUMBERED}\Z")
CLEAR = re.compile(
    r"(?:secret|authorization|(?:api|access|secret|private|account|encryption|signing|master|auth|subscription|ssh|gateway"
    rf"|refresh|bearer|session|bot|oauth|storage|shared)[ _.-]?(?:key|token)){NUMBERED}\Z"
)
LONGEST_NAME = 40

QUOTED = re.compile(rf"([{QUOTES}])([^\n]{{1,2048}}?)\1")
AFTER_STRING = re.compile(r"\s*[:,}\]]")
"""In `"password=": 1, "b"` the quote ends the name and opens no value."""

WITHOUT_SPACES = rf"[^\s,;&<>(){{}}\[\]\\{QUOTES}]"
UNQUOTED = re.compile(
    rf"(?i:(?:bearer|basic|digest|token|apikey)[ \t]+)?((?:(?!=){WITHOUT_SPACES}){{4,512}}+={{0,2}})(?![(\[])"
)
UNQUOTED_PASSWORD = re.compile(rf"({WITHOUT_SPACES}{{4,512}}+)(?![(\[])")
NO_VALUE = re.compile(
    r"(?:none|null|nil|true|false|undefined|string|str|required|optional|empty|redacted|changeme)\.?"
    r"|\$\{.*\}|\$[A-Z_][A-Z0-9_]*|<.*>|\{+.*\}+|%\(?\w*\)?s|(.)\1*",
    re.IGNORECASE,
)
"""Literals, templates and rows of stars: these say where a secret comes from, not what it is."""

ATTRIBUTE = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)+")
"""`settings.password` in a program."""

NOT_A_WORD = re.compile(r"[0-9!@#$%^&*+=?~|]")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
RANDOM = re.compile(r"[A-Za-z0-9+/=_.~\-]{20,512}")
CHANGE = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[a-z0-9])|(?<=[0-9])(?=[A-Za-z])")
DIGIT = re.compile("[0-9]")
JUDGED = 64


def secrets(legible: Legible) -> Iterator[Finding]:
    """Every value whose name says that it is a secret."""
    for word, pattern in ASSIGNMENTS.items():
        if word not in legible.lower:
            continue
        done = 0
        for match in pattern.finditer(legible.lower):
            if match.start() < done:
                continue
            name = legible.lower[max(0, match.start() - LONGEST_NAME) : match.start(1)]
            span = _value(legible.text, match, _strength(name))
            if span:
                yield Finding("secret", *span)
                done = span[1]


def is_secret(name: str, value: str) -> bool:
    """Whether a field's whole value is a secret by the field's name."""
    name = name[-LONGEST_NAME:].lower()
    return NAME.search(name) is not None and _looks_like_one(value, _strength(name))


def _value(text: str, assignment: re.Match[str], strength: Strength) -> tuple[int, int] | None:
    """Where the value after a name stands, if it is a secret."""
    if quoted := QUOTED.match(text, assignment.end()):
        ends_name = assignment[1] != quoted[1] and AFTER_STRING.match(quoted[2])
        return quoted.span(2) if not ends_name and _looks_like_one(quoted[2], strength) else None
    form = UNQUOTED_PASSWORD if strength == "password" else UNQUOTED
    unquoted = form.match(text, assignment.end())
    if unquoted is None or ATTRIBUTE.fullmatch(unquoted[1]) or not _looks_like_one(unquoted[1], strength):
        return None
    told = assignment[2] == "=" or (assignment[2] in ":=>" and text[unquoted.end() : unquoted.end() + 1] in "\n")
    if strength == "password" and not told and not NOT_A_WORD.search(unquoted[1].rstrip(".!?:")):
        return None
    return unquoted.span(1)


def _strength(name: str) -> Strength:
    """How clearly a name in lower case says that its value is a secret."""
    if PASSWORD.search(name):
        return "password"
    return "clear" if CLEAR.search(name) else "vague"


def _looks_like_one(value: str, strength: Strength) -> bool:
    if not value or PLACEHOLDER.fullmatch(value) or NO_VALUE.fullmatch(value):
        return False
    if strength == "password":
        return True
    if strength == "clear":
        return len(value) >= 8 and len(value.split()) <= 2 and (len(value) >= 20 or not value.isalpha())
    return _looks_random(value)


def _looks_random(value: str) -> bool:
    """Whether letters and digits change as often as in a random string, where words and numbers do not."""
    if not RANDOM.fullmatch(value) or UUID.fullmatch(value) or value.isdigit() or not DIGIT.search(value):
        return False
    judged = value[:JUDGED]
    return len(CHANGE.findall(judged)) >= len(judged) / 4
