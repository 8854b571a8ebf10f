"""From a row forward to the adapters it touched."""

import io

import pyarrow.parquet as pq
import pytest
from made_chains import SOURCE, ChainFactory, example, parquet
from rich.console import Console

from finetune_platform.commands.trace import render_trace
from finetune_platform.errors import BadInput
from finetune_platform.registry.trace import trace
from finetune_platform.rows import EXAMPLE_SCHEMA, Example


def test_a_trained_row_reaches_its_adapters(chains: ChainFactory, tracking_uri: str) -> None:
    chain = chains()
    adapter = chain.register(tracking_uri)
    found = trace(example(2).example_id, chain.lake, chain.database)
    assert [(raw.raw_id, raw.fates[0].source_row) for raw in found.raw] == [(chain.raw.artifact_id, 2)]
    (dataset,) = found.datasets
    assert [(fate.split, fate.source_uri, fate.source_row) for fate in dataset.fates] == [("train", SOURCE, 2)]
    (run,) = dataset.training_runs
    assert run.training_id == chain.training.artifact_id
    assert [use.adapter_id for use in run.adapters] == [adapter.artifact_id]
    assert [move.alias for move in run.adapters[0].aliases] == ["candidate", "champion"]


def test_a_row_reaches_the_adapters_that_began_at_one_that_learned_it(
    local_chains: ChainFactory, tracking_uri: str
) -> None:
    chain = local_chains()
    taught = chain.register(tracking_uri)
    later = chain.training.model_copy(
        update={"artifact_id": "tr-later", "parents": {"curated_dataset": "ds-later", "warm_start": taught.artifact_id}}
    )
    local_chains.store("trained_adapter", later, {})
    heir = taught.model_copy(update={"artifact_id": "ad-heir", "parents": {"trained_adapter": "tr-later"}})
    local_chains.store("registered_adapter", heir, {})
    (dataset,) = trace(example(2).example_id, chain.lake, chain.database).datasets
    (run,) = dataset.training_runs
    assert [one.training_id for one in run.adapters[0].heirs] == ["tr-later"]
    assert [one.adapter_id for one in run.descendants] == [taught.artifact_id, "ad-heir"]


def test_only_a_run_that_read_rows_of_its_kind_learned_from_a_row(local_chains: ChainFactory) -> None:
    chain = local_chains()
    guide = Example(kind="text", messages=[], text="Rome is a city.", source_uri="data/guide.md", source_row=1)
    for place in (f"{chain.raw.path}/examples.parquet", f"{chain.dataset.path}/train.parquet"):
        stored = pq.read_table(io.BytesIO(chain.lake.get(place))).to_pylist()
        chain.lake.put(place, parquet([*stored, guide.record()], EXAMPLE_SCHEMA))
    reader = chain.training.model_copy(update={"artifact_id": "tr-reader", "kinds": ["text"]})
    local_chains.store("trained_adapter", reader, {})

    for row, kind, learned, others in (
        (guide, "text", "tr-reader", chain.training.artifact_id),
        (example(2), "sft", chain.training.artifact_id, "tr-reader"),
    ):
        found = trace(row.example_id, chain.lake, chain.database)
        (dataset,) = found.datasets
        assert [(fate.split, fate.kind) for fate in dataset.fates] == [("train", kind)]
        assert {run.training_id: dataset.taught(run) for run in dataset.training_runs} == {learned: True, others: False}
        told = io.StringIO()
        Console(file=told, width=120).print(render_trace(found))
        assert f"{learned}  learned from it" in told.getvalue() and f"{others}  did not" in told.getvalue()
        assert (f"{guide.example_id} (text)" in told.getvalue()) == (row is guide)


def test_a_place_finds_the_same_row(local_chains: ChainFactory) -> None:
    chain = local_chains()
    for place in (f"{SOURCE}:6", "cities.jsonl:6"):
        (dataset,) = trace(place, chain.lake, chain.database).datasets
        assert [(fate.split, fate.example_id) for fate in dataset.fates] == [("test", example(6).example_id)]
    with pytest.raises(BadInput):
        trace("ities.jsonl:6", chain.lake, chain.database)


def test_a_duplicate_is_shown_rejected_and_where_its_content_went(local_chains: ChainFactory) -> None:
    chain = local_chains()
    (dataset,) = trace(f"{SOURCE}:7", chain.lake, chain.database).datasets
    told = [(fate.source_row, fate.split, fate.reason) for fate in dataset.fates]
    assert told == [(1, "train", None), (7, None, "exact_duplicate")]


def test_an_unreadable_row_is_found_with_its_reason(local_chains: ChainFactory) -> None:
    chain = local_chains()
    found = trace(f"{SOURCE}:8", chain.lake, chain.database)
    (fate,) = found.raw[0].fates
    assert (fate.reason, fate.stage, fate.example_id) == ("invalid_json", "parse", None)
    assert found.datasets == []


def test_a_place_in_another_version_of_the_file_is_not_confused(local_chains: ChainFactory) -> None:
    local_chains(answer="Rome")
    chain = local_chains(answer="Oslo")
    found = trace(example(3, "Oslo").example_id, chain.lake, chain.database)
    assert [d.dataset_id for d in found.datasets] == ["ds-oslo"]


@pytest.mark.parametrize("row", ["ex-0", "nowhere.jsonl:1", "rows", "rows.jsonl:x"])
def test_a_row_that_is_not_there_says_how_to_name_one(local_chains: ChainFactory, row: str) -> None:
    chain = local_chains()
    with pytest.raises(BadInput) as failure:
        trace(row, chain.lake, chain.database)
    assert row in failure.value.problem and "FILE:ROW" in failure.value.mend
