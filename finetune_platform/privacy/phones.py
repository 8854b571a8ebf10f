"""Telephone numbers: international ones by country code and length, national ones by how they are written.

A bare row of digits is an order number as often as a telephone number, so that it counts only after a word such as
`tel`; after a word such as `order` a national number does not count.
"""

import re
from collections.abc import Iterator
from typing import Literal

from finetune_platform.privacy.finding import Finding
from finetune_platform.privacy.legible import Legible, legible

RUN = re.compile(r"0(?:[ ()./\-]{0,3}0){6,}+")
"""Over the text's shape: at least seven digits with little between them."""

START = re.compile(r"\+(?<![\w+]\+)|[(0-9](?<![\w./\-].)")
FORMATS = re.compile(
    r"""
    (?P<international>\+[ ]?\(?[1-9](?:[ ()./\-]{0,3}[0-9]){6,14}(?![0-9]))
    |(?:
    (?P<american>(?:\+?1[ .\-]{0,2})?(?:\([2-9][0-9]{2}\)[ ]{0,2}|[2-9][0-9]{2}[ .\-/]{1,3})
        [2-9][0-9]{2}[ .\-]{1,3}[0-9]{4}(?:[ ,]{0,2}(?i:ext\.?|x)[ ]?[0-9]{1,5})?)
    |(?P<dialled>(?:00[ ]?|011[ \-])[1-9](?:[ ()./\-]{0,3}[0-9]){8,14})
    |(?P<trunk>\(?0[1-9](?:[ )./\-]{0,3}[0-9]){7,10})
    |(?P<area>\([0-9]{2,5}\)[ ]?[0-9]{3,5}[ \-][0-9]{3,5})
    |(?P<russian>8[ \-]?\(?[0-9]{3}\)?[ \-][0-9]{3}[ \-][0-9]{2}[ \-][0-9]{2})
    |(?P<chinese>1[3-9][0-9][ \-][0-9]{4}[ \-][0-9]{4})
    )(?!\w|[./\-][0-9])
    """,
    re.VERBOSE,
)
"""By the name of the group: how numbers are written, at a `START`."""

BARE = re.compile(r"\+?\(?[0-9](?:[ ()./\-]{0,2}[0-9]){6,14}(?!\w)")

COUNTRY_CODE = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|(?:2[1-69]|3[578]|42|5[09]|6[789]|8[0578]|9[679])[0-9]"
)
AMERICAN_AFTER_CODE = re.compile(r"1[2-9][0-9]{2}[2-9][0-9]{6}")

WORDS_BACKWARDS = re.compile(
    r"([\"'`\s:=.,#№(+-]{0,6})(?:([^\W\d_]{1,24})(?:[ _-]([^\W\d_]{1,24}))?(?:[ _-]([^\W\d_]{1,24}))?)?"
)
BEFORE = 80
LINKS = {"is", "at", "on", "ist", "lautet", "est", "es"}
NUMBER = {"number", "nummer", "no", "nr", "num", "id", "code"}
REACHED = {"me", "us", "him", "her", "them"}
PHONE = {
    "tel", "telephone", "telefon", "telefono", "teléfono", "phone", "phones", "cellphone", "mobile", "mobil", "móvil",
    "celular", "cell", "fax", "telefax", "facsimile", "handy", "hotline", "whatsapp", "sms", "phonenumber",
    "mobilenumber", "telefonnummer", "handynummer", "mobilephone", "homephone", "workphone", "тел", "телефон",
}  # fmt: skip
PHONE_ENDS = ("电话", "手机", "电话号码", "手机号", "手机号码", "電話", "電話番号", "携帯")
NUMBERED = {
    "order", "orders", "invoice", "invoices", "ref", "reference", "account", "acct", "konto", "loan", "case", "ticket",
    "policy", "isbn", "issn", "ean", "gtin", "serial", "part", "sku", "item", "tracking", "shipment", "parcel",
    "customer", "contract", "docket", "file", "batch", "lot", "id", "bestellung", "rechnung", "auftrag", "vertrag",
}  # fmt: skip

DATE = re.compile(
    r"[0-9]{1,2}([./ -])[0-9]{1,2}\1(?:19|20)[0-9]{2}(?![0-9])|0?[1-9][./-](?:19|20)[0-9]{2}(?![0-9])"
    r"|(?:19|20)[0-9]{2}[./-][0-9]{1,2}[./-][0-9]{1,2}(?![0-9])"
)
YEARS = re.compile(r"\([0-9]+\) ?(?:19|20)[0-9]{2}[ -](?:19|20)[0-9]{2}")
DECIMAL = re.compile(r"\+?[0-9]+\.[0-9]+")
GROUP = re.compile(r"[0-9]+")
ZEROS = "000000"
"""`+500 000 000` is an amount."""


def phones(legible: Legible) -> Iterator[Finding]:
    """Every telephone number."""
    for run in RUN.finditer(legible.shape):
        for start, end in _in_run(legible.text, *run.span()):
            yield Finding("phone", start, end)


def is_phone(name: str, value: str) -> bool:
    """Whether a field's whole value is a telephone number by the field's name."""
    return _announced(f"{name}:", len(name) + 1) == "phone" and BARE.fullmatch(legible(value).text) is not None


def _in_run(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The telephone numbers of a row of digits at `text[start:end]`."""
    if DATE.fullmatch(text, start, end):
        return
    done, limit = 0, min(len(text), end + 12)
    called = _announced(text, start) == "phone"
    for sign in START.finditer(text, max(0, start - 4), end):
        if called and sign.start() > start:
            break
        match = FORMATS.match(text, sign.start(), limit) if sign.start() >= done else None
        if match and _is_one(str(match.lastgroup), match[0]) and not _numbers_something(text, match):
            yield match.span()
            done, called = match.end(), False
    if called and (bare := BARE.match(text, start)) and not DATE.match(bare[0]):
        yield bare.span()


def _numbers_something(text: str, match: re.Match[str]) -> bool:
    """Whether the words before say that it is the number of an order, an account …"""
    return match.lastgroup != "international" and _announced(text, match.start()) == "number"


def _announced(text: str, start: int) -> Literal["phone", "number", ""]:
    """What the words before `start` say comes there: a telephone number, or one of an order, an account …"""
    before = WORDS_BACKWARDS.match(text[max(0, start - BEFORE) : start][::-1].lower())
    if before is None:
        return ""
    words = [word[::-1] for word in before.groups("")[1:]] + ["", ""]
    if words[0] in LINKS:
        words.pop(0)
    if words[0] in NUMBER and words[1]:
        words.pop(0)
    reached = words[0] in REACHED and words[1] in ("call", "text", "reach")
    if reached or words[0] in PHONE or words[0].rstrip("是为").endswith(PHONE_ENDS):
        return "phone"
    is_number = words[0] in NUMBERED or words[0].endswith("nummer") or "#" in before[1] or "№" in before[1]
    return "number" if is_number else ""


def _is_one(form: str, written: str) -> bool:
    """Whether what is written in a form can be a telephone number."""
    if DATE.match(written) or YEARS.fullmatch(written) or DECIMAL.fullmatch(written):
        return False
    groups = GROUP.findall(written)
    digits = "".join(groups)
    if form == "international":
        return _has_country(digits)
    if form == "dialled":
        return _has_country(digits.removeprefix("011" if written.startswith("011") else "00"))
    if form == "trunk":
        return len(digits) in (10, 11) if len(groups) == 1 else len(groups[0]) <= 6 and min(map(len, groups)) >= 2
    return True


def _has_country(digits: str) -> bool:
    if digits[0] == "1":
        return AMERICAN_AFTER_CODE.fullmatch(digits) is not None
    return 8 <= len(digits) <= 15 and not digits.endswith(ZEROS) and COUNTRY_CODE.match(digits) is not None
