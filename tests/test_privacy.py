"""What is found and what stays, kind by kind; that replacing is stable, keeps JSON whole and takes linear time."""

import json
import random
import string
import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from finetune_platform.privacy import find, redact, redact_json
from finetune_platform.privacy.cards import DOUBLED
from finetune_platform.privacy.ibans import LENGTHS

GATEWAY_KEY = "ftk_0a1b2c3d_" + "aB3-_" * 8 + "xyZ"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA0Z3VS5JJcds3xfn\n/ygWyF8PbnGy0AHB\n-----END RSA PRIVATE KEY-----"
)

POSITIVES: dict[str, list[str]] = {
    "email": [
        "a card as a name: «4111111111111111@example.com»",
        "Write to «jane.roe+loans@example.co.uk».",
        "<«o'neil_2@sub.example-bank.com»>",
        "cc:«grüße@bücher.example» bitte",
        "https://shop.example/?mail=«jane%40example.com»&x=1",
        "«ＪＡＮＥ＠ｅｘａｍｐｌｅ．ｃｏｍ»",
        "«jane@exa\u200bmple.com» with a zero-width space",
    ],
    "phone": [
        "Call «+49 (0)30 1234567» today",
        "«+1 (212) 555-0147» or «212-555-0148 ext. 12», «(212) 555-0149»",
        "London «020 7946 0958», mobile «07700 900123».",
        "Paris «01 23 45 67 89» ou «06.12.34.56.78»",
        "Berlin «030/1234567», «0171 1234567»; dialled «0049 30 1234567»",
        "Tokyo «03-1234-5678», Sydney «(02) 9876 5432», Moscow «8 (912) 345-67-89», Beijing «138 1234 5678»",
        "Tel: «5551234», Fax : «+ 972 2 991 3382»",
        "my phone number is «612345678», or «0612345678»",
        "text me at «5551234»; for me number is «0612345678»",
        "我的电话是：«13812345678»",
        "«+49\u00a030\u00a01234567»",
        "«＋４９ ３０ １２３４５６７»",
    ],
    "card": [
        "Card «4111 1111 1111 1111», exp. 12/26, CVV 123",
        "«5555-5555-5555-4444» and «378282246310005» and «3782 822463 10005»",
        "«30569309025904»|«6011111111111117»|«3530111333300000»",
        "«4111\u00a01111\u00a01111\u00a01111»",
        "«4111\u200b1111 1111 1111»",
        "Order 25 4999 «4111 1111 1111 1111»",
        "{'pan': «4111111111111111»}",
    ],
    "iban": [
        "Pay to «DE89 3704 0044 0532 0130 00» by Friday.",
        "«GB82WEST12345698765432», «fr1420041010050500013m02606»",
        "IBAN:«NL91 ABNA 0417 1643 00»",
    ],
    "ip": [
        "from «203.0.113.9»:443",
        "«10.12.0.77»/16 and http://«192.168.1.20»/x",
        "[«2001:db8::8a2e:370:7334»]:80, «fe80::1», ip:«2001:db8:0:0:0:0:0:1»",
        "«::ffff:203.0.113.9»",
    ],
    "credentials": [
        "postgresql://«app:s3cr3t»@db.example.com:5432/x",
        "redis://«:hunter2»@cache:6379",
        "smtp://«jane@example.com:p@ss»@mail.example.com",
    ],
    "private_key": [f"«{PEM}»\n", "«-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA0Z3VS5JJ»\n cut off here"],
    "token": [
        f"key «{GATEWAY_KEY}».",
        "«sk-proj-AbCdEfGh1234567890abcd» «sk-ant-api03-AbCdEfGh1234567890»",
        "«ghp_16C7e42F292c6912E7710c838347Ae178B4a» «github_pat_11ABCDEFG0abcdefghijkl_MNOPQRSTUV»",
        "«xoxb-123456789012-abcdefABCDEF» «glpat-ABCdef123456ghiJKL78»",
        "«AKIAIOSFODNN7EXAMPLE», «ASIAIOSFODNN7EXAMPLE», «AIzaSyA1234567890abcdefghijklmnopqrstuv»",
        f"cookie={JWT[:0]}«{JWT}»;",
        "Authorization: Bearer «mF_9.B5f-4.1JqMabcdefg»",
        "«hf_ABCdefGHIjklMNOpqrSTUvwxYZabcdefgh» «sk_live_4eC39HqLyjWDarjtT1zdp7dc»",
    ],
    "secret": [
        "password=«hunter»&user=x",
        "DB_PASSWORD: «hunter2», db_pass=«hunter»",
        "Password: «correct»\n",
        "'password': '«two words»'",
        '"client_secret" => "«a8f5f167f44f4964»"',
        "AWS_SECRET_ACCESS_KEY=«wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»",
        "x-api-key: «0c1f8a2b9d»",
        "my password is «hunter2!» thanks",
        "Authorization: Basic «dXNlcjpwYXNzd29yZA==»",
        "license key: «A7f3K9q2Z8x1M4n6B0v5»",
    ],
}

NEGATIVES = [
    "Pursuant to Section 2.1.3.4 and Sections 10.1.2.3, 10.1.2.4 and 10.1.2.5(a) of the Agreement dated 03/14/2021,",
    "1.2.3.4 Notices. All notices under Clause 12.4.1 shall be in writing.",
    "a term loan of USD 1,250,000.00 (EUR 1.150.000,00; 1 250 000 kr), at 4.125% p.a., due 31.12.2024",
    "between 2019-2023 and 01.02.2023 - 05.02.2023, at 2023-01-02T10:15:30.123456+00:00, open 08.30-17.30",
    "Order 4012888888881882, order no. 0612345678, invoice number 020 7946 0958, ref: 212-555-0147, # 0171 1234567",
    "id 550e8400-e29b-41d4-a716-446655440000, 12345678-1234-4123-8123-061234567890",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "ISBN 978-0-306-40615-7 and ISBN 0-306-40615-2, CUSIP 037833100, SEC accession 0001193125-12-123456",
    "pip install torch==2.13.0, Chrome/120.0.6099.129, version 1.2.3.4, v1.2.3, release 10.2.0.1, react@18.2.0-beta.rc",
    "a[1::2], x[::-1], std::vector, 12:30:45, 00:1a:2b:3c:4d:5e, ::1, 127.0.0.1 and 0.0.0.0",
    "300.1.2.3, 1.2.3, 1.2.3.4.5, 192.168.01.1",
    "the secret: never give up; the key is under the mat; password is required; Password: must have 8 characters",
    "password=None, password=${DB_PASSWORD}, password=settings.password, password=getpass(), api_key: <your key>",
    '{"type": "object", "properties": {"password": {"type": "string"}}, "required": ["password"]}',
    '{"token": "Hello", "logprob": -0.3}, {"max_tokens": 256, "total_tokens": 12345678, "stop_token": "<|endoftext|>"}',
    "primary key: 550e8400-e29b-41d4-a716-446655440000, foreign_key: customer_order_2023_items",
    "git@github.com:org/repo.git, @app.route, x@w.T, a @ b, @angular/core",
    "npm_config_registry_url_value sk-spinner-in-the-middle risk-adjusted-return-on-capital-2023",
    "[0.4929857017322093, -0.0234567891, 1700000000, 1700000000000]",
    "GB82WEST12345698765431 and DE89370400440532013001 and 4111 1111 1111 1112",
    "1 2 3 4 5 6 7 8 9 10 11 12 and 2020 2021 2022 2023",
    "+0100, +500 000 000 EUR, 5+4912345678, 48.8577 +2.2950000",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQ\n-----END PUBLIC KEY-----",
]


def marked(text: str) -> tuple[str, list[str]]:
    """A text without its «marks», and what stood in them."""
    return text.replace("«", "").replace("»", ""), [part.split("»")[0] for part in text.split("«")[1:]]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in POSITIVES.items() for text in texts])
def test_what_is_personal_or_secret_is_found_with_its_exact_place(kind: str, text: str) -> None:
    plain, expected = marked(text)
    assert [(f.kind, plain[f.start : f.end]) for f in find(plain)] == [(kind, part) for part in expected]


@pytest.mark.parametrize("text", NEGATIVES)
def test_what_only_looks_alike_stays(text: str) -> None:
    assert [text[f.start : f.end] for f in find(text)] == []
    assert redact(text) == (text, {})


def luhn(digits: str) -> str:
    """`digits` with their check digit."""
    total = sum(map(int, digits[::-1].translate(DOUBLED)[::2] + digits[-2::-2]))
    return digits + str(-total % 10)


def iban_of(country: str, account: str) -> str:
    number = int("".join(str(int(c, 36)) for c in f"{account}{country}00"))
    return f"{country}{98 - number % 97:02d}{account}"


WORDS = st.lists(st.sampled_from(["the loan", "—", "10%", "§ (a)", ";", "über März 2021", "12,5 %"]), max_size=6)
AROUND = WORDS.map(" ".join)
CARDS = st.one_of(
    st.from_regex(r"4[0-9]{14}", fullmatch=True),
    st.from_regex(r"5[1-5][0-9]{13}", fullmatch=True),
    st.from_regex(r"3[47][0-9]{12}", fullmatch=True),
).map(luhn)
IBANS = st.sampled_from(sorted(LENGTHS)).flatmap(
    lambda country: st.from_regex(rf"[0-9A-Z]{{{LENGTHS[country] - 4}}}", fullmatch=True).map(
        lambda account: iban_of(country, account)
    )
)
LABEL = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
EMAILS = st.builds(
    lambda local, labels, top: f"{local}@{'.'.join(labels)}.{top}",
    st.from_regex(r"[A-Za-z0-9]+(?:[._+-][A-Za-z0-9]+){0,3}", fullmatch=True).filter(
        lambda s: len(s) <= 64 and s != "git"
    ),
    st.lists(LABEL.filter(lambda s: not s.isdigit()), min_size=1, max_size=3),
    st.sampled_from(["com", "de", "example", "co.uk", "org"]),
)
FOURS = st.ip_addresses(v=4).filter(lambda a: not (a.is_loopback or a.is_unspecified))
SIXES = st.ip_addresses(v=6, network="2000::/3")


def grouped(written: str, gap: str, size: int = 4) -> str:
    return gap.join(written[i : i + size] for i in range(0, len(written), size))


@settings(max_examples=60, deadline=None)
@given(before=AROUND, after=AROUND, data=st.data())
def test_every_valid_one_is_found_wherever_it_stands(before: str, after: str, data: st.DataObject) -> None:
    gap = data.draw(st.sampled_from(["", " ", "-", "\u00a0"]))
    kind, value = data.draw(
        st.one_of(
            st.tuples(st.just("card"), CARDS.map(lambda card: grouped(card, gap) if len(card) == 16 else card)),
            st.tuples(st.just("iban"), IBANS.map(lambda iban: grouped(iban, gap))),
            st.tuples(st.just("email"), EMAILS),
            st.tuples(st.just("ip"), FOURS.map(str)),
            st.tuples(st.just("ip"), SIXES.map(str)),
            st.tuples(st.just("ip"), SIXES.map(lambda address: address.exploded.upper())),
        )
    )
    text = f"{before} : {value} | {after}"
    assert (kind, value) in [(f.kind, text[f.start : f.end]) for f in find(text)]


@settings(max_examples=60, deadline=None)
@given(card=CARDS, place=st.integers(0, 15), other=st.integers(1, 9), gap=st.sampled_from(["", " ", "-"]))
def test_a_card_with_one_digit_changed_is_none(card: str, place: int, other: int, gap: str) -> None:
    place %= len(card)
    changed = f"{card[:place]}{(int(card[place]) + other) % 10}{card[place + 1 :]}"
    text = f"account: {grouped(changed, gap) if len(card) == 16 else changed}."
    assert not [f for f in find(text) if f.kind == "card"]


@settings(max_examples=40, deadline=None)
@given(iban=IBANS, place=st.integers(4, 30), other=st.integers(1, 8))
def test_an_iban_with_one_digit_changed_is_none(iban: str, place: int, other: int) -> None:
    assume(place < len(iban) and iban[place].isdigit())
    changed = f"{iban[:place]}{(int(iban[place]) + other) % 10}{iban[place + 1 :]}"
    assert not [f for f in find(f"to {changed} today") if f.kind == "iban"]


FRAGMENTS = [marked(text)[0] for texts in POSITIVES.values() for text in texts] + [
    "[EMAIL_3]", "[CARD_1]", "\\n", "\\u00fc", '\\"', '"', "'", "password=", "tel ", "+", "4111", " ", ", ", ": ",
    "\u200b", "://", "@", "\\", "Bearer ", "1", "-", "key: ", "{", "}", "[", ":", "\ud83d", "\U0001d7d8", "İ",
]  # fmt: skip
MESSY = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=8).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=MESSY)
@example("+1 212 555 0100 4111 1111 1111 1111")
@example('password="[SECRET_1] x"')
@example("'password': 'two words'JANE@example.com{'pan': 4111111111111111}")
def test_redacting_twice_changes_nothing_and_findings_never_overlap(text: str) -> None:
    once, _ = redact(text)
    assert redact(once) == (once, {})
    found = find(text)
    assert all(f.start < f.end <= len(text) for f in found)
    assert all(first.end <= second.start for first, second in pairwise(found))


def test_the_same_value_has_the_same_number_and_numbers_in_the_text_are_kept() -> None:
    ibans = "DE89370400440532013000 DE89 3704 0044 0532 0130 00"
    assert redact(f"a@x.com B@x.com A@X.COM [EMAIL_4] +49 30 1234567 +49-30-1234567 {ibans}") == (
        "[EMAIL_5] [EMAIL_6] [EMAIL_5] [EMAIL_4] [PHONE_1] [PHONE_1] [IBAN_1] [IBAN_1]",
        {"email": 3, "phone": 2, "iban": 2},
    )


def test_a_number_that_a_longer_finding_had_cut_off_is_found_too() -> None:
    assert redact("+1 212 555 0100 4111 1111 1111 1111")[0] == "[PHONE_1] [CARD_1]"


def test_redact_json_numbers_across_the_value_and_reads_field_names() -> None:
    value = {
        "messages": [
            {"role": "user", "content": "I am jane@example.com"},
            {"content": None, "n": 1, "x": 0.5, "ok": True},
        ],
        "jane@example.com": "JANE@example.com",
        "Jane@example.com": {"password": "two words", "token": "the", "apiKey": "abcdefgh1", "phone": "612345678"},
        "card": 4111111111111111,
        "arguments": '{"to":"jane@example.com","card":4111111111111111,"n":-4111111111111111}',
        "huge": 10**5000,
    }
    redacted, counts = redact_json(value)
    assert redacted == {
        "messages": [{"role": "user", "content": "I am [EMAIL_1]"}, {"content": None, "n": 1, "x": 0.5, "ok": True}],
        "[EMAIL_1]": "[EMAIL_1]",
        "[EMAIL_1]*": {"password": "[SECRET_1]", "token": "the", "apiKey": "[SECRET_2]", "phone": "[PHONE_1]"},
        "card": "[CARD_1]",
        "arguments": '{"to":"[EMAIL_1]","card":"[CARD_1]","n":"[CARD_1]"}',
        "huge": 10**5000,
    }
    assert counts == {"email": 5, "secret": 2, "phone": 1, "card": 3}
    assert redact_json(redacted) == (redacted, {})


def test_redact_json_leaves_its_argument_alone_and_takes_any_depth() -> None:
    value: Any = ["a@x.com"]
    for _ in range(5_000):
        value = [value]
    redacted, counts = redact_json(value)
    assert counts == {"email": 1}
    for _ in range(5_000):
        value, redacted = value[0], redacted[0]
    assert (value, redacted) == (["a@x.com"], ["[EMAIL_1]"])


def shape(value: Any) -> Any:
    """A value without what redaction may change."""
    if isinstance(value, dict):
        return [shape(child) for child in value.values()]
    if isinstance(value, list):
        return [shape(child) for child in value]
    return "scalar" if isinstance(value, str | int) and not isinstance(value, bool) else value


LEAVES = st.one_of(
    MESSY, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.just(4111111111111111)
)
KEYS = MESSY | st.sampled_from(["password", "phone"])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@settings(max_examples=120, deadline=None)
@given(value=JSON)
def test_the_structure_of_json_stays(value: Any) -> None:
    redacted, _ = redact_json(value)
    assert shape(redacted) == shape(value)
    assert redact_json(redacted) == (redacted, {})


@settings(max_examples=200, deadline=None)
@given(value=st.lists(JSON, min_size=1, max_size=2), ascii_only=st.booleans(), levels=st.integers(1, 3))
def test_json_inside_a_string_stays_json(value: Any, ascii_only: bool, levels: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    for _ in range(levels - 1):
        text = json.dumps([text], ensure_ascii=ascii_only)
    redacted = json.loads(redact(text)[0])
    assert len(redacted) == (len(value) if levels == 1 else 1)
    assert len(json.loads(redact_json([text])[0][0])) == len(redacted)


def test_no_finding_reaches_from_one_string_of_json_into_the_next() -> None:
    text = '["\\"password\\": ", 4111111111111111, "password=", "b", "jane@example.com"]'
    assert json.loads(redact(text)[0]) == ['"password": ', "[CARD_1]", "password=", "b", "[EMAIL_1]"]


def test_escapes_of_json_hide_nothing() -> None:
    arguments = json.dumps(
        {"to": "\u00fcmit@example.com", "note": "\n4111\u00a01111\u00a01111\u00a01111", "password": 'a"b'}
    )
    assert json.loads(redact(arguments)[0]) == {"to": "[EMAIL_1]", "note": "\n[CARD_1]", "password": "[SECRET_1]"}


ADVERSARIAL = [
    "@", "a@", "a.", "@a.", "a@a.a", "a%40b.", "1", "1 ", "44 ", "4444 ", "4111 1111 1111 1111 ", "0 1", "+1", "((0",
    "1.1.1.", "Section 1.1.1.1, ", "192.168.1.7 ", ":", "::", "a:", "2001:db8::1 ", "DE12 ", "tel 1234567 ", "sk-",
    "a_", "-", "eyJ", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", '-----BEGIN PRIVATE KEY-----"', "://", "://a:",
    "Bearer a", "key=", "key1=", 'key="', "key='a1", "password: ", "\\", "\\u", "\\u0041", "\u200b", "1\u200b", "４",
    "[", '{"', "İ", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("size", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", ADVERSARIAL)
def test_time_is_linear_on_hostile_input(seed: str, size: int) -> None:
    """What makes patterns backtrack: quadratic time would be minutes; the bound is ten times the slowest ever seen."""
    text = (seed * (size // len(seed) + 1))[:size]
    started = time.process_time()
    find(text)
    assert time.process_time() - started < size / 25_000


def corpus(rows: int, seed: int) -> list[tuple[str, list[tuple[str, str]]]]:
    """Sentences of a loan desk's mail, each with the kinds and values that stand in it."""
    chance = random.Random(seed)

    def digits(n: int) -> str:
        return "".join(chance.choices(string.digits, k=n))

    made = {
        "email": lambda: f"{chance.choice(['info', 'j.roe', 'loans_eu'])}{digits(2)}@x-{digits(1)}.example",
        "phone": lambda: f"{chance.choice(['+49 30', '+44 20', '030', '(0171)'])} {chance.randint(2, 9)}{digits(6)}",
        "card": lambda: grouped(luhn(f"4{digits(14)}"), chance.choice(["", " ", "-"])),
        "iban": lambda: grouped(iban_of("DE", digits(18)), chance.choice(["", " "])),
        "ip": lambda: ".".join(str(chance.randint(31, 255)) for _ in range(4)),
        "token": lambda: "ghp_" + "".join(chance.choices(string.ascii_letters + string.digits, k=36)),
    }
    decoys = [
        lambda: f"Section {chance.randint(1, 20)}.{chance.randint(1, 9)}.{chance.randint(1, 9)}.{chance.randint(1, 9)}",
        lambda: f"{chance.randint(1, 28):02d}.{chance.randint(1, 12):02d}.20{digits(2)}",
        lambda: f"USD {chance.randint(1, 999)},{digits(3)},{digits(3)}.00",
        lambda: f"order no. {digits(10)}",
        lambda: f"{chance.getrandbits(128):032x}",
        lambda: f"version {chance.randint(0, 20)}.{chance.randint(0, 20)}.{chance.randint(0, 20)}",
    ]
    sentences = []
    for _ in range(rows):
        kinds = chance.choices(list(made), k=chance.randint(0, 3))
        truth = [(kind, made[kind]()) for kind in kinds]
        parts = [value for _, value in truth] + [chance.choice(decoys)() for _ in range(3)]
        chance.shuffle(parts)
        sentences.append((f"The borrower wrote: {', '.join(parts)}.", truth))
    return sentences


def test_recall_and_precision_on_a_mixed_corpus() -> None:
    hits: Counter[str] = Counter()
    for text, truth in corpus(rows=1_500, seed=7):
        found = Counter((f.kind, text[f.start : f.end]) for f in find(text))
        hits["found"] += found.total()
        hits["true"] += len(truth)
        hits["both"] += (found & Counter(truth)).total()
    assert hits["both"] / hits["true"] >= 0.99
    assert hits["both"] / hits["found"] >= 0.99
