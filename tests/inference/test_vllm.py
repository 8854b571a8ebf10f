"""Adapters on vLLM servers: on every replica before they serve, back after a restart, gone when nobody uses them."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_vllm import BASE, FakeVllm

from finetune_platform.inference.chat import EngineError, LoadedAdapter
from finetune_platform.inference.dispatch import Retries
from finetune_platform.inference.vllm import VllmEngine

BODY = {"messages": [{"role": "user", "content": "Hello"}]}


def adapter(folder: Path, name: str, r: int = 8) -> LoadedAdapter:
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "adapter_config.json").write_text(json.dumps({"r": r}))
    return LoadedAdapter(name, place)


def against(test: Callable[..., Awaitable[None]], servers: int = 2, **options: Any) -> None:
    async def run() -> None:
        fakes = [FakeVllm() for _ in range(servers)]
        for fake in fakes:
            await fake.start()
        options.setdefault("reconcile_s", 0.1)
        options.setdefault("timeout_s", 5.0)
        built = VllmEngine([f.url for f in fakes], retries=Retries(base_s=0.02), **options)
        try:
            await test(built, *fakes)
            assert [(r.total, dict(r.in_flight)) for r in built.replicas] == [(0, {})] * servers
        finally:
            await built.close()
            for fake in fakes:
                await fake.stop()

    asyncio.run(run())


async def said(built: VllmEngine, name: str | None) -> str:
    return str((await built.complete(BODY, name))["choices"][0]["message"]["content"])


async def failure(awaitable: Awaitable[Any]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await awaitable
    return caught.value


def test_every_replica_has_an_adapter_once_load_returns(tmp_path: Path) -> None:
    async def test(built: VllmEngine, *fakes: FakeVllm) -> None:
        one, two = adapter(tmp_path, "ad-1"), adapter(tmp_path, "ad-2")
        await asyncio.gather(built.load(one), built.load(two))
        await built.load(one)
        assert await built.loaded() == {"ad-1", "ad-2"}
        assert [sorted(f.loads) for f in fakes] == [["ad-1", "ad-2"]] * 2  # twice is no second loading
        assert fakes[0].adapters["ad-1"] == str(one.folder)
        for name, expected in (("ad-1", "ad-1"), ("ad-2", "ad-2"), (None, "base")):
            assert {await said(built, name) for _ in range(4)} == {expected}
        chunks = [c async for c in built.stream(BODY, "ad-2")]
        assert chunks[0]["choices"][0]["delta"]["content"] == "ad-2"
        assert all(set(f.asked) == {"ad-1", "ad-2", BASE} for f in fakes)

    against(test)


def test_paths_are_the_servers_own(tmp_path: Path) -> None:
    async def test(built: VllmEngine, fake: FakeVllm) -> None:
        await built.load(LoadedAdapter("ad-1", Path("/elsewhere/ad-1")))
        assert fake.adapters["ad-1"] == str(tmp_path / "ad-1")

    adapter(tmp_path, "ad-1")
    against(test, servers=1, path_of=lambda a: str(tmp_path / a.adapter_id))


@pytest.mark.parametrize("wrong", ["missing", "rank"])
def test_an_adapter_that_is_refused_is_loaded_nowhere(tmp_path: Path, wrong: str) -> None:
    async def test(built: VllmEngine, *fakes: FakeVllm) -> None:
        good = adapter(tmp_path, "ad-1")
        await built.load(good)
        bad = LoadedAdapter("ad-2", tmp_path / "no") if wrong == "missing" else adapter(tmp_path, "ad-2", r=64)
        caught = await failure(built.load(bad))
        assert ("No adapter found" if wrong == "missing" else "max_lora_rank") in caught.message
        assert await built.loaded() == {"ad-1"}
        assert (await failure(built.complete(BODY, "ad-2"))).status == 503
        assert await said(built, "ad-1") == "ad-1"
        await built.reconcile()
        assert built.problems == {r.name: "" for r in built.replicas}

    against(test)


def test_a_servers_word_is_not_enough(tmp_path: Path) -> None:
    async def test(built: VllmEngine, deaf: FakeVllm, other: FakeVllm) -> None:
        deaf.deaf = True
        assert (await failure(built.load(adapter(tmp_path, "ad-1")))).status == 503
        assert await built.loaded() == set()
        assert {await said(built, "ad-1") for _ in range(4)} == {"ad-1"}
        assert deaf.asked == []
        deaf.deaf = False
        await built.reconcile()
        assert await built.loaded() == {"ad-1"}

    against(test)


def test_servers_without_the_endpoint_say_how_to_start_them(tmp_path: Path) -> None:
    async def test(built: VllmEngine, fake: FakeVllm) -> None:
        fake.runtime_loading = False
        caught = await failure(built.load(adapter(tmp_path, "ad-1")))
        assert not caught.callers_fault
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in caught.message

    against(test, servers=1)


def test_a_restarted_replica_gets_its_adapters_before_their_requests(tmp_path: Path) -> None:
    async def test(built: VllmEngine, restarted: FakeVllm, other: FakeVllm) -> None:
        await built.load(adapter(tmp_path, "ad-1"))
        await restarted.stop()
        assert {await said(built, "ad-1") for _ in range(10)} == {"ad-1"}
        await restarted.start()
        await asyncio.sleep(0.3)  # its own reconciliation
        assert restarted.adapters.keys() == {"ad-1"}
        before = len(restarted.asked)
        for _ in range(10):
            await said(built, "ad-1")
        assert len(restarted.asked) > before
        assert restarted.not_found == []

    against(test)


def test_a_replica_that_refused_a_connection_is_not_asked_before_it_confirmed_again(tmp_path: Path) -> None:
    async def test(built: VllmEngine, restarted: FakeVllm, other: FakeVllm) -> None:
        await built.load(adapter(tmp_path, "ad-1"))
        await restarted.stop()
        assert {await said(built, "ad-1") for _ in range(4)} == {"ad-1"}
        await restarted.start()
        assert {await said(built, "ad-1") for _ in range(4)} == {"ad-1"}
        assert (restarted.asked, restarted.not_found) == ([], [])
        await built.reconcile()
        for _ in range(4):
            await said(built, "ad-1")
        assert restarted.asked

    against(test, reconcile_s=60.0)


def test_a_restart_between_two_requests_costs_no_answer(tmp_path: Path) -> None:
    async def test(built: VllmEngine, only: FakeVllm) -> None:
        await built.load(adapter(tmp_path, "ad-1"))
        for _ in range(5):
            only.adapters.clear()  # restarted so fast that no connection was refused
            answers = await asyncio.gather(*(said(built, "ad-1") for _ in range(8)))
            assert set(answers) == {"ad-1"}
        assert len(only.loads) == 6  # all eight waited for one reconciliation

    against(test, servers=1, reconcile_s=60.0)


def test_a_replica_that_is_away_does_not_keep_the_others_from_serving(tmp_path: Path) -> None:
    async def test(built: VllmEngine, away: FakeVllm, there: FakeVllm) -> None:
        await away.stop()
        assert (await failure(built.load(adapter(tmp_path, "ad-1")))).status == 503
        assert await said(built, "ad-1") == "ad-1"
        assert built.problems[built.replicas[0].name]
        await away.start()
        await asyncio.sleep(0.3)
        assert await built.loaded() == {"ad-1"}

    against(test)


def test_all_replicas_away_is_told_at_once(tmp_path: Path) -> None:
    async def test(built: VllmEngine, only: FakeVllm) -> None:
        await built.load(adapter(tmp_path, "ad-1"))
        await only.stop()
        for _ in range(8):
            assert (await failure(built.complete(BODY, "ad-1"))).status in (502, 503)
        await only.start()
        await asyncio.sleep(0.3)
        assert await said(built, "ad-1") == "ad-1"

    against(test, servers=1)


def test_unloading_waits_for_the_requests_under_way(tmp_path: Path) -> None:
    async def test(built: VllmEngine, *fakes: FakeVllm) -> None:
        await built.load(adapter(tmp_path, "ad-1"))
        for fake in fakes:
            fake.pause_s = 0.3
        calls = [asyncio.create_task(said(built, "ad-1")) for _ in range(6)]
        await asyncio.sleep(0.1)
        unloading = asyncio.create_task(built.unload("ad-1"))
        await asyncio.sleep(0.05)
        assert (await failure(built.complete(BODY, "ad-1"))).status == 503  # no new ones meanwhile
        assert all("ad-1" in f.adapters for f in fakes)
        await unloading
        assert all(f.adapters == {} and f.torn == [] for f in fakes)
        assert await asyncio.gather(*calls) == ["ad-1"] * 6
        await built.unload("ad-1")
        await built.unload("ad-9")

    against(test)


def test_adapters_of_others_stay_unless_the_servers_are_ours_alone(tmp_path: Path) -> None:
    for exclusive in (False, True):

        async def test(built: VllmEngine, fake: FakeVllm, exclusive: bool = exclusive) -> None:
            fake.adapters |= {"ad-9": "/other", "sql-lora": "/started/with"}
            await built.load(adapter(tmp_path, "ad-1"))
            assert ("ad-9" not in fake.adapters) == exclusive
            assert {"sql-lora", "ad-1"} <= fake.adapters.keys()

        against(test, servers=1, exclusive=exclusive)


def test_an_answer_from_another_model_never_gets_through(tmp_path: Path) -> None:
    async def test(built: VllmEngine, fake: FakeVllm) -> None:
        await built.load(adapter(tmp_path, "ad-1"))
        fake.impostor = "ad-2"
        assert (await failure(built.complete(BODY, "ad-1"))).status == 502
        chunks: list[Any] = []

        async def collect() -> None:
            async for chunk in built.stream(BODY, "ad-1"):
                chunks.append(chunk)

        assert (await failure(collect())).status == 502
        assert chunks == []

    against(test, servers=1)


def test_no_wrong_answer_while_adapters_come_and_go_and_replicas_restart(tmp_path: Path) -> None:
    async def test(built: VllmEngine, *fakes: FakeVllm) -> None:
        draw = random.Random(0)
        adapters = [adapter(tmp_path, f"ad-{i}") for i in range(6)]
        answered = refused = 0
        going = True

        async def changes() -> None:
            while going:
                one = draw.choice(adapters)
                await (built.unload(one.adapter_id) if draw.random() < 0.5 else ignoring(built.load(one)))

        async def restarts() -> None:
            while going:
                await asyncio.sleep(0.2)
                fake = draw.choice(fakes)
                await fake.stop()
                await asyncio.sleep(0.05)
                await fake.start()

        async def ignoring(awaitable: Awaitable[None]) -> None:
            try:
                await awaitable
            except EngineError as error:
                assert error.status == 503

        async def caller() -> None:
            nonlocal answered, refused
            for _ in range(60):
                name = draw.choice(adapters).adapter_id
                try:
                    assert await said(built, name) == name
                    answered += 1
                except EngineError as error:
                    assert not error.callers_fault
                    refused += 1
                    await asyncio.sleep(0.005)

        for fake in fakes:
            fake.pause_s = 0.005
        changing = [asyncio.create_task(t) for t in (changes(), changes(), restarts())]
        await asyncio.gather(*(caller() for _ in range(8)))
        going = False
        await asyncio.gather(*changing)
        assert answered > 50
        assert answered + refused == 480
        assert [f.torn for f in fakes] == [[], []]

    against(test)
