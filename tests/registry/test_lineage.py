"""From an adapter back to its rows."""

import pytest
from made_chains import SOURCE, ChainFactory

from finetune_platform.errors import BadInput
from finetune_platform.registry.artifacts import CHAIN
from finetune_platform.registry.lineage import ROW_COLUMNS, lineage, lineage_rows


def test_from_an_adapter_to_its_source_files_and_rows(chains: ChainFactory, tracking_uri: str) -> None:
    chain = chains()
    adapter = chain.register(tracking_uri)
    found = lineage(adapter.artifact_id, chain.lake, chain.database)
    assert [step.asset for step in found.steps] == list(reversed(CHAIN))
    assert [step.artifact_id for step in found.steps] == [
        adapter.artifact_id,
        chain.evaluation.artifact_id,
        chain.training.artifact_id,
        chain.dataset.artifact_id,
        chain.raw.artifact_id,
    ]
    assert {step.dagster_run_id for step in found.steps} == {"run-1"}
    assert found.steps[1].facts["verdict"] == "pass"
    assert found.steps[3].facts == {"train": 4, "validation": 1, "test": 1, "rejected": 1}
    assert [(s.uri, s.sha256, s.rows) for s in found.sources] == [(SOURCE, "a" * 64, 7)]
    assert [move.alias for move in found.aliases] == ["candidate", "champion"]
    rows = list(lineage_rows(found, chain.lake))
    assert [(row["split"], row["source_row"]) for row in rows] == [
        *(("train", number) for number in range(1, 5)),
        ("validation", 5),
        ("test", 6),
    ]
    assert set(rows[0]) == set(ROW_COLUMNS) and rows[0]["source_uri"] == SOURCE


def test_a_task_means_its_champion(local_chains: ChainFactory, tracking_uri: str) -> None:
    first = local_chains(seed=0).register(tracking_uri)
    chain = local_chains(seed=1)
    chain.register(tracking_uri)
    assert lineage("cities", chain.lake, chain.database).artifact_id == first.artifact_id


def test_any_artifact_has_a_lineage(local_chains: ChainFactory) -> None:
    chain = local_chains()
    found = lineage(chain.dataset.artifact_id, chain.lake, chain.database)
    assert [step.asset for step in found.steps] == ["curated_dataset", "raw_examples"]


def test_an_unknown_id_suggests_the_nearest(local_chains: ChainFactory, tracking_uri: str) -> None:
    chain = local_chains()
    adapter = chain.register(tracking_uri)
    with pytest.raises(BadInput, match=f"did you mean {adapter.artifact_id}"):
        lineage(adapter.artifact_id[:-1] + "x", chain.lake, chain.database)


def test_a_lost_parent_is_told_with_place_and_mend(local_chains: ChainFactory, tracking_uri: str) -> None:
    chain = local_chains()
    adapter = chain.register(tracking_uri)
    chain.lake.delete(chain.training.path)
    with pytest.raises(BadInput, match=chain.training.artifact_id) as failure:
        lineage(adapter.artifact_id, chain.lake, chain.database)
    assert "finetune run cities --from trained_adapter" in failure.value.mend


def test_parents_that_disagree_stop_the_walk(local_chains: ChainFactory, tracking_uri: str) -> None:
    chain = local_chains()
    adapter = chain.register(tracking_uri)
    other = chain.evaluation.model_copy(
        update={"parents": {**chain.evaluation.parents, "curated_dataset": "ds-forged"}}
    )
    chain.lake.put(f"{other.path}/manifest.json", other.to_bytes())
    with pytest.raises(BadInput, match="ds-forged"):
        lineage(adapter.artifact_id, chain.lake, chain.database)
