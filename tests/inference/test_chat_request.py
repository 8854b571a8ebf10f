"""A request is understood whole, or refused with the parameter's name."""

from typing import Any

import pytest

from finetune_platform.inference.chat import EngineError
from finetune_platform.inference.chat_request import read_request

HELLO = [{"role": "user", "content": "hello"}]


def test_defaults_are_those_of_the_evaluation() -> None:
    request = read_request({"messages": HELLO})
    assert request == (HELLO, [], None, 0.0, 1.0, None, ())


def test_everything_that_is_read() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    request = read_request(
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 4,
            "stop": "x",
            "tools": [tool],
        }
    )
    assert request == ([{"role": "user", "content": "ab"}], [tool], 7, 0.5, 0.9, 4, ("x",))
    both = read_request({"messages": HELLO, "max_tokens": 7, "max_completion_tokens": 5, "stop": ["x", "y"]})
    assert (both.max_tokens, both.stop) == (5, ("x", "y"))
    assert read_request({"messages": HELLO, "tools": [tool], "tool_choice": "none"}).tools == []


def test_harmless_parameters_and_nulls_are_accepted() -> None:
    harmless: dict[str, Any] = {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "user": "u", "metadata": {"a": "b"},
        "store": True, "n": 1, "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
        "response_format": {"type": "text"}, "tool_choice": "auto", "functions": None, "stop": None, "seed": None,
    }  # fmt: skip
    assert read_request({"messages": HELLO, **harmless}) == read_request({"messages": HELLO})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"5": 1}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("functions", [{"name": "f"}]),
        ("reasoning_effort", "high"),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", "0"),
        ("top_p", -0.1),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_completion_tokens", 1.5),
        ("seed", "a"),
        ("stop", ""),
        ("stop", ["a", 1]),
        ("stop", list("abcde")),
        ("stop", 5),
        ("tools", {"type": "function"}),
        ("messages", []),
        ("messages", "hello"),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        ("messages", [{"role": "user", "content": 5}]),
    ],
)
def test_what_is_not_understood_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(EngineError, match=f"^{key}") as refused:
        read_request({"messages": HELLO, key: value})
    assert refused.value.status == 400
    assert refused.value.callers_fault
