"""Error texts that are passed on: on one line, bounded, without keys."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.inference.answers import MAX_MESSAGE, error_text

KEY = "sk-proj-0123456789abcdefXYZ"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"error": {"message": "too long"}}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b'{"message": "too long"}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"upstream connect error", "upstream connect error"),
        (b"<html>502</html>", "a page, not JSON"),
        (b"", ""),
    ],
)
def test_every_way_to_write_an_error(raw: bytes, said: str) -> None:
    assert error_text(raw, None) == said


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        f"header Authorization: Bearer {KEY}",
        "api_key=0123456789abcdefXYZ is wrong",
        "token 'abc0123456789abcdefXYZ' expired",
    ],
)
def test_keys_are_taken_out(text: str) -> None:
    said = error_text(json.dumps({"error": {"message": text}}).encode(), None)
    assert "0123456789abcdef" not in said
    assert "[key]" in said


@given(text=st.text(max_size=3 * MAX_MESSAGE), key=st.text("abcdef0123456789", min_size=12, max_size=20))
def test_any_text_is_one_bounded_line_without_our_key(text: str, key: str) -> None:
    said = error_text(json.dumps({"error": {"message": f"{text}{key}{text}"}}).encode(), key)
    assert key not in said
    assert len(said) <= MAX_MESSAGE
    assert said.isprintable() or not {c for c in said if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029"}


@given(raw=st.binary(max_size=200))
def test_any_bytes_give_a_text(raw: bytes) -> None:
    assert len(error_text(raw, "key")) <= MAX_MESSAGE
