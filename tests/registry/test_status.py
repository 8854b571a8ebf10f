"""What is in place, missing or stale, and why."""

from typing import Any

import pytest
from made_chains import SOURCE, Chain, ChainFactory, make_task

from finetune_platform.database import Making
from finetune_platform.registry.artifacts import CHAIN
from finetune_platform.registry.making import note_making
from finetune_platform.registry.status import TaskStatus, status
from finetune_platform.task import Task

VERSIONS = dict.fromkeys(CHAIN, "1")
SOURCES = {SOURCE: "a" * 64}


def states(found: TaskStatus) -> list[str]:
    return [asset.state for asset in found.assets]


def look(chain: Chain, task: Task | None = None, sources: dict[str, Any] = SOURCES, **versions: str) -> TaskStatus:
    return status(task or chain.task, chain.lake, chain.database, {**VERSIONS, **versions}, sources)


def test_everything_in_place(chains: ChainFactory, tracking_uri: str) -> None:
    chain = chains()
    adapter = chain.register(tracking_uri)
    found = look(chain)
    assert states(found) == ["in place"] * 5
    assert (found.champion, found.candidate) == (adapter.artifact_id, adapter.artifact_id)
    assert found.dataset_rows == {"train": 4, "validation": 1, "test": 1}
    assert found.verdict == "pass" and found.first_to_make is None


def test_nothing_made_yet(local_chains: ChainFactory) -> None:
    chain = local_chains()
    found = look(chain, make_task(name="rivers"))
    assert states(found) == ["missing"] * 5 and found.first_to_make == "raw_examples"


def test_not_registered_yet(local_chains: ChainFactory) -> None:
    found = look(local_chains())
    assert states(found) == ["in place"] * 4 + ["missing"]


@pytest.mark.parametrize(
    ("changed", "first", "reason"),
    [
        ({"curation": {"strata": [{"field": "task_type", "value": "x"}]}}, "raw_examples", "curation.strata changed"),
        ({"sources": [{"uri": SOURCE, "format": "input_ideal"}]}, "raw_examples", "sources changed"),
        ({"curation": {"max_tokens": 99}}, "curated_dataset", "curation.max_tokens changed"),
        ({"system_prompt": "City?"}, "curated_dataset", "system_prompt changed"),
        ({"training": {"stages": [{"learning_rate": 0.5}]}}, "trained_adapter", "training changed"),
        ({"baseline_prompt": "Which?"}, "evaluation_report", "baseline_prompt changed"),
        ({"evaluation": {"gates": []}}, "evaluation_report", "evaluation changed"),
        ({"description": "Other words."}, None, None),
        ({"schedule": {"cron": "0 3 * * 1"}}, None, None),
    ],
)
def test_a_changed_setting_makes_what_follows_stale(
    local_chains: ChainFactory, tracking_uri: str, changed: dict[str, Any], first: str | None, reason: str | None
) -> None:
    chain = local_chains()
    chain.register(tracking_uri)
    found = look(chain, make_task(**changed))
    assert found.first_to_make == first
    if first is None or reason is None:
        return
    place = list(CHAIN).index(first)
    assert states(found) == ["in place"] * place + ["stale"] * (5 - place)
    assert any(reason in because for because in found.assets[place].because)


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ({SOURCE: "c" * 64}, f"{SOURCE} changed"),
        ({SOURCE: "a" * 64, "data/more.jsonl": None}, "data/more.jsonl is new"),
        ({}, f"{SOURCE} is gone"),
    ],
)
def test_changed_sources_make_everything_stale(
    local_chains: ChainFactory, tracking_uri: str, sources: dict[str, Any], reason: str
) -> None:
    chain = local_chains()
    chain.register(tracking_uri)
    found = look(chain, sources=sources)
    assert states(found) == ["stale"] * 5
    assert reason in found.assets[0].because[0]


def test_newer_code_makes_its_asset_stale(local_chains: ChainFactory, tracking_uri: str) -> None:
    chain = local_chains()
    chain.register(tracking_uri)
    found = look(chain, trained_adapter="2")
    assert states(found) == ["in place", "in place", "stale", "stale", "stale"]


def test_a_parent_made_again_is_named(local_chains: ChainFactory, tracking_uri: str) -> None:
    chain = local_chains(seed=0)
    chain.register(tracking_uri)
    local_chains(seed=1)
    found = look(chain)
    assert states(found) == ["in place"] * 4 + ["stale"]
    assert "evaluation_report is now ev-rome1, this was made from ev-rome0" in found.assets[4].because


def test_the_same_dataset_from_a_newer_reading_is_in_place(local_chains: ChainFactory, tracking_uri: str) -> None:
    """Its manifest still names the older reading: nothing is overwritten."""
    chain = local_chains()
    chain.register(tracking_uri)
    newer = chain.raw.model_copy(update={"artifact_id": "raw-newer"})
    local_chains.store("raw_examples", newer, {})
    assert states(look(chain)) == ["in place"] + ["stale"] * 4
    note_making(chain.database, chain.task, "curated_dataset", chain.dataset, "1", [newer])
    assert states(look(chain)) == ["in place"] * 5


def test_without_a_note_an_asset_is_made_again(local_chains: ChainFactory) -> None:
    chain = local_chains()
    with chain.database.session() as session:
        session.delete(session.get(Making, ("cities", "curated_dataset")))
    found = look(chain)
    assert states(found)[:2] == ["in place", "stale"]
    assert found.assets[1].because == ["how it was made is not on record"]


def test_an_artifact_that_the_lake_lost_is_missing(local_chains: ChainFactory) -> None:
    chain = local_chains()
    chain.lake.delete(chain.training.path)
    assert states(look(chain))[2:4] == ["missing", "stale"]
