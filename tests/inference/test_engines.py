"""A task file's engine, built: the right kind, the right key, and a mend where the key is missing."""

import asyncio
from typing import Any

import pytest

from finetune_platform.errors import BadInput
from finetune_platform.inference.engines import build_engine
from finetune_platform.inference.upstream import UpstreamEngine
from finetune_platform.inference.vllm import VllmEngine
from finetune_platform.task_serving import EngineRef

OPENAI: dict[str, Any] = {"kind": "openai", "urls": ["https://api.openai.com/v1"], "model": "gpt", "api_key": "main"}


def test_servers_get_their_addresses_model_and_key() -> None:
    built = build_engine(EngineRef(**OPENAI), None, {"main": "secret"}, 7.0)
    assert isinstance(built, UpstreamEngine)
    assert (built.model, [r.base for r in built.replicas]) == ("gpt", ["https://api.openai.com/v1"])
    vllm = build_engine(EngineRef(kind="vllm", urls=["http://a:8000", "http://b:8000/v1/"]), None, {}, 7.0)
    assert isinstance(vllm, VllmEngine)
    assert [r.base for r in vllm.replicas] == ["http://a:8000/v1", "http://b:8000/v1"]
    assert asyncio.run(vllm.loaded()) == set()


def test_a_missing_key_names_itself_and_what_is_there() -> None:
    with pytest.raises(BadInput) as caught:
        build_engine(EngineRef(**OPENAI), None, {"other": "secret"}, 7.0)
    assert '"main"' in caught.value.problem and "other" in caught.value.problem
    assert "secret" not in str(caught.value)


def test_a_key_that_no_header_can_hold_is_refused_before_a_request() -> None:
    with pytest.raises(BadInput, match="line break") as caught:
        build_engine(EngineRef(**OPENAI), None, {"main": "secret\n"}, 7.0)
    assert "secret" not in str(caught.value)


def test_an_in_process_engine_needs_a_base_model() -> None:
    with pytest.raises(BadInput, match="base model"):
        build_engine(EngineRef(), None, {}, 7.0)
