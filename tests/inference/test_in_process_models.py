"""Whole models beside a base model and its adapters: each answers from its own weights, and gives its memory back."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_in_process import TICKETS, TOKENS, chat, text
from tiny_adapters import generated, save_adapter

from finetune_platform.inference.chat import EngineError, LoadedAdapter
from finetune_platform.inference.chat_request import read_request
from finetune_platform.inference.in_process_models import InProcessModels


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter, and the model all of whose weights were moved."""
    import torch
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("adapters")
    whole = shutil.copytree(tiny_model, root / "ad-whole")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn(weights.shape, generator=generator) * 0.05)
    model.save_pretrained(whole)
    return {"ad-1": save_adapter(tiny_model, root / "ad-1", 1), "ad-whole": whole}


def with_models(tiny_model: Path, use: Callable[[InProcessModels], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        models = InProcessModels(tiny_model, dtype="float32", device="cpu")
        try:
            return await asyncio.wait_for(use(models), 120)
        finally:
            await models.close()

    return asyncio.run(run())


async def load(models: InProcessModels, folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        await models.load(LoadedAdapter(name, folder))
        await models.load(LoadedAdapter(name, folder))


def test_base_adapter_and_whole_model_answer_at_the_same_time_each_from_its_weights(
    tiny_model: Path, folders: dict[str, Path]
) -> None:
    async def use(models: InProcessModels) -> None:
        await load(models, folders)
        assert await models.loaded() == set(folders)
        asked = [(name, ticket) for name in (None, *folders) for ticket in TICKETS]
        answers = await asyncio.gather(*(models.complete(chat(ticket), name) for name, ticket in asked))
        found = {key: text(answer) for key, answer in zip(asked, answers, strict=True)}
        prompts = [models.base.encode(read_request(chat(ticket))) for ticket in TICKETS]
        for name, model, adapter in (
            (None, tiny_model, None),
            ("ad-1", tiny_model, folders["ad-1"]),
            ("ad-whole", folders["ad-whole"], None),
        ):
            for ticket, ids in zip(TICKETS, generated(model, adapter, prompts, TOKENS), strict=True):
                assert found[name, ticket] == models.base.tokenizer.decode(ids, skip_special_tokens=True), name
        assert found["ad-whole", TICKETS[0]] != found[None, TICKETS[0]]
        assert {answer["model"] for answer in answers[-len(TICKETS) :]} == {"ad-whole"}
        pieces = [chunk async for chunk in models.stream(chat(TICKETS[0]), "ad-whole")]
        told = "".join(c["choices"][0]["delta"].get("content", "") for c in pieces if c["choices"])
        assert told == found["ad-whole", TICKETS[0]] and pieces[0]["model"] == "ad-whole"

    with_models(tiny_model, use)


def test_unloading_waits_for_those_in_flight_also_when_nobody_waits_for_it(
    tiny_model: Path, folders: dict[str, Path]
) -> None:
    async def use(models: InProcessModels) -> None:
        await load(models, folders)
        engine = models._whole["ad-whole"]
        running = asyncio.create_task(models.complete(chat("hello", max_tokens=150), "ad-whole"))
        while not engine.batch._running:
            await asyncio.sleep(0.005)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(models.unload("ad-whole"), 0.02)
        assert await models.loaded() == {"ad-1"}
        with pytest.raises(EngineError, match="ad-whole is not loaded"):
            await models.complete(chat("hello"), "ad-whole")
        assert text(await running)
        await asyncio.gather(*models._leaving)
        assert not engine.batch._thread.is_alive()
        await models.load(LoadedAdapter("ad-whole", folders["ad-whole"]))
        assert text(await models.complete(chat("hello"), "ad-whole"))
        await models.unload("ad-1")
        assert await models.loaded() == {"ad-whole"}

    with_models(tiny_model, use)


def test_a_model_that_memory_does_not_hold_is_refused_with_both_figures(
    tiny_model: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(models: InProcessModels) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**6}))
        with pytest.raises(EngineError, match=r"beside its base model: that takes .* GB in float32, and 0\.0 GB") as no:
            await models.load(LoadedAdapter("ad-whole", folders["ad-whole"]))
        assert no.value.status == 400 and await models.loaded() == set()

    with_models(tiny_model, use)
