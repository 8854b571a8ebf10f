"""Adapters come from the lake to the engines as the plans want them, checked, and leave again."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answering_engine import AnsweringEngine

from finetune_platform.identity import folder_sha256
from finetune_platform.inference.chat import EngineError
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.registry.bundle import adapter_id_of
from finetune_platform.serving import fleet as fleet_module
from finetune_platform.serving.fleet import Fleet
from finetune_platform.serving.plan import Plan
from finetune_platform.serving.served_task import ServedTask
from finetune_platform.task import Task

Publish = Callable[[str], str]


@pytest.fixture
def publish(local_lake: Lake, tmp_path: Path) -> Publish:
    """Registers a bundle with these weights; its id."""

    def registered(weights: str) -> str:
        folder = tmp_path / f"bundle-{weights}"
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_text(weights)
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
        files = folder_sha256(folder)
        manifest = AdapterManifest(
            artifact_id=adapter_id_of(files),
            task="topics",
            code_version="1",
            files=files,
            base_model="tiny",
            base_model_revision="1",
            system_prompt=f"prompt of {weights}",
            chat_template_sha256="0",
            summary={},
            mlflow_model="topics",
            golden=[],
        )
        (folder / "card.md").write_text("# a card")
        (folder / "manifest.json").write_bytes(manifest.to_bytes())
        local_lake.publish(folder, manifest.path)
        return manifest.artifact_id

    return registered


class House:
    """One task's engine and fleet; `plan` may be changed at any moment."""

    def __init__(self, task: Task, lake: Lake, folder: Path) -> None:
        self.plan, self.engine, self.folder = Plan(), AnsweringEngine(), folder
        self.served = ServedTask(task, self.engine, self.engine)
        self.fleet = Fleet({task.name: self.served}, lake, folder, lambda name: self.plan)

    def reconcile(self, **places: Any) -> None:
        if places:
            self.plan = Plan.model_validate(places)
        asyncio.run(self.fleet.reconcile())


@pytest.fixture
def house(topics: Task, local_lake: Lake, tmp_path: Path) -> House:
    return House(topics, local_lake, tmp_path / "copies")


def test_what_the_plan_names_is_fetched_checked_and_loaded_the_champion_first(house: House, publish: Publish) -> None:
    ids = [publish(name) for name in ("one", "two", "three", "four")]
    house.reconcile(previous_champion=ids[0], canary=ids[1], shadow=ids[2], champion=ids[3])
    assert house.engine.loads[0] == ids[3]
    assert set(house.engine.adapters) == set(house.served.prompts) == set(ids)
    loaded = house.engine.adapters[ids[1]]
    assert (loaded.folder / "adapter_model.safetensors").read_text() == "two"
    assert house.served.prompts[ids[1]] == "prompt of two"
    assert house.fleet.failures == {}
    house.reconcile()
    assert len(house.engine.loads) == 4


def test_an_adapter_that_no_plan_names_any_more_is_unloaded(house: House, publish: Publish) -> None:
    one, two = publish("one"), publish("two")
    house.reconcile(champion=one, canary=two)
    house.reconcile(champion=one)
    assert set(house.engine.adapters) == {one} and not house.served.is_ready(two)
    house.reconcile(champion=one, withdrawn=[two])
    house.reconcile(champion=one, canary=two)
    assert set(house.engine.adapters) == {one, two} and house.served.is_ready(two)


def test_an_adapter_that_another_task_on_the_same_engine_names_stays(
    house: House, publish: Publish, local_lake: Lake
) -> None:
    one = publish("one")
    house.reconcile(champion=one)
    other = ServedTask(house.served.task.model_copy(update={"name": "other"}), house.engine, house.engine)
    plans = {"topics": Plan(champion=one), "other": Plan()}
    both = Fleet({"topics": house.served, "other": other}, local_lake, house.folder, plans.__getitem__)
    asyncio.run(both.reconcile())
    assert set(house.engine.adapters) == {one}
    plans["topics"] = Plan()
    asyncio.run(both.reconcile())
    assert house.engine.adapters == {}


@pytest.mark.parametrize("where", ["lake", "copy"])
def test_a_tampered_file_is_refused_with_its_name_and_nothing_else_suffers(
    house: House, publish: Publish, local_lake: Lake, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = publish("good"), publish("bad")
    weights = Path(local_lake.url_of(f"topics/adapters/{bad}/adapter_model.safetensors"))
    if where == "copy":
        local_lake.fetch(f"topics/adapters/{bad}", house.folder / "topics" / bad)
        weights = house.folder / "topics" / bad / "adapter_model.safetensors"
    weights.write_text("other weights")
    house.reconcile(champion=good, canary=bad)
    assert set(house.engine.adapters) == {good} and not house.served.is_ready(bad)
    told = house.fleet.failures[bad]
    assert f"adapter_model.safetensors: not what {bad} was registered with" in told
    assert f"delete {house.folder / 'topics' / bad}" in told
    house.reconcile()
    assert len([r for r in caplog.records if bad in r.getMessage()]) == 1
    # The mend that the message names.
    if where == "copy":
        shutil.rmtree(house.folder / "topics" / bad)
        house.reconcile()
        assert house.served.is_ready(bad) and house.fleet.failures == {}
    else:
        house.reconcile(champion=good)
        assert house.fleet.failures == {}


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer/more.json"])
def test_a_file_more_is_refused_also_where_the_manifest_was_changed_with_it(
    house: House, publish: Publish, local_lake: Lake, name: str
) -> None:
    one = publish("one")
    folder = Path(local_lake.url_of(f"topics/adapters/{one}"))
    (folder / name).write_text("{}")
    manifest = local_lake.manifest(AdapterManifest, f"topics/adapters/{one}")
    files = {n: sha for n, sha in folder_sha256(folder).items() if n not in ("card.md", "manifest.json")}
    (folder / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).to_bytes())
    house.reconcile(champion=one)
    assert f"not what {one} was registered with" in house.fleet.failures[one]
    assert house.engine.adapters == {}


def test_what_is_not_in_the_lake_yet_is_told_and_taken_when_it_comes(
    house: House, publish: Publish, local_lake: Lake
) -> None:
    one = publish("one")
    place = Path(local_lake.url_of(f"topics/adapters/{one}"))
    place.rename(place.with_name("aside"))
    house.reconcile(champion=one)
    assert "nothing is published there" in house.fleet.failures[one] and not house.served.is_ready(one)
    place.with_name("aside").rename(place)
    house.reconcile()
    assert house.served.is_ready(one) and house.fleet.failures == {}


def test_what_was_fetched_once_is_served_while_the_lake_is_away(
    house: House, publish: Publish, local_lake: Lake, topics: Task
) -> None:
    one = publish("one")
    house.reconcile(champion=one)
    shutil.rmtree(local_lake.url)
    restarted = House(topics, local_lake, house.folder)
    restarted.reconcile(champion=one)
    assert restarted.served.prompts == {one: "prompt of one"} and restarted.engine.loads == [one]


def test_an_engine_that_forgot_its_adapters_gets_them_again(house: House, publish: Publish) -> None:
    one, two = publish("one"), publish("two")
    house.reconcile(champion=one, canary=two)
    house.engine.adapters.clear()
    house.reconcile()
    assert set(house.engine.adapters) == {one, two}


def test_an_adapter_that_the_engine_refuses_is_not_ready_and_tried_again(house: House, publish: Publish) -> None:
    one = publish("one")
    house.engine.load_error = EngineError(400, "it is of another base model")
    house.reconcile(champion=one)
    assert house.fleet.failures == {one: "it is of another base model"} and not house.served.is_ready(one)
    house.engine.load_error = None
    house.reconcile()
    assert house.served.is_ready(one) and house.fleet.failures == {}


def test_with_one_of_several_servers_down_the_champion_serves_and_a_trial_waits(house: House, publish: Publish) -> None:
    one, two = publish("one"), publish("two")
    house.engine.load_error = EngineError(503, "it is not loaded on server 2")
    house.reconcile(champion=one, canary=two)
    assert house.served.is_ready(one) and not house.served.is_ready(two)
    assert house.fleet.failures == dict.fromkeys([one, two], "it is not loaded on server 2")
    house.engine.load_error = None
    house.reconcile()
    assert house.served.is_ready(two) and house.fleet.failures == {}
    # Down again: the engine knows which servers can answer.
    house.engine.adapters.clear()
    house.engine.load_error = EngineError(503, "it is not loaded on server 2")
    house.reconcile()
    assert house.served.is_ready(one) and house.served.is_ready(two)


def test_last_requests_of_one_adapter_do_not_hold_up_others(
    house: House, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "UNLOAD_S", 0.05)
    one, two = publish("one"), publish("two")
    house.reconcile(champion=one)
    house.engine.unload_hangs = True
    house.reconcile(champion=two)
    assert set(house.engine.adapters) == {one, two} and house.served.is_ready(two) and not house.served.is_ready(one)
    house.engine.unload_hangs = False
    house.reconcile()
    assert set(house.engine.adapters) == {two}


def test_a_change_is_acted_on_at_once_from_any_thread_until_the_end(
    house: House, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    one = publish("one")
    caplog.set_level(logging.INFO)

    async def keep() -> None:
        keeping = asyncio.create_task(house.fleet.run())
        await asyncio.sleep(0.05)
        house.plan = Plan(champion=one)
        await asyncio.to_thread(house.fleet.wake_soon)
        async with asyncio.timeout(4):
            while not house.served.is_ready(one):
                await asyncio.sleep(0.01)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(keep())
    house.fleet.wake_soon()  # After the end: nothing.
    assert f"adapter {one} is ready" in caplog.text


@pytest.mark.parametrize("turns", range(5))
def test_the_end_is_heard_also_right_after_a_change(house: House, turns: int) -> None:
    """Before Python 3.12 wait_for swallows a cancellation that comes with what it waits for."""

    async def keep() -> None:
        keeping = asyncio.create_task(house.fleet.run())
        await asyncio.sleep(0.05)
        house.fleet.wake_soon()
        for _ in range(turns):
            await asyncio.sleep(0)
        keeping.cancel()
        done, _ = await asyncio.wait([keeping], timeout=1)
        assert done

    asyncio.run(keep())
