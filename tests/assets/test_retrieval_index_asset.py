"""The index in Dagster: made once for a corpus, recorded for the gateway, with what was set aside in view."""

from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance

from finetune_platform.database import Database
from finetune_platform.definitions import build_defs
from finetune_platform.lake import Lake
from finetune_platform.registry.lineage import lineage
from finetune_platform.retrieval import build as build_module
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

KEY = AssetKey(["ticket_topics", "retrieval_index"])


def materialize(path: Path) -> dict[str, Any]:
    """The metadata of a run of the task's retrieval job."""
    job = build_defs(tasks=[load_task(path)]).resolve_job_def("ticket_topics_retrieval")
    with DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
        assert result.success
        event = instance.get_latest_materialization_event(KEY)
        assert event is not None and event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_a_second_making_does_nothing_and_a_new_document_makes_a_new_index(
    settings_env: Settings, task_file: Any, embedding_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = task_file(retrieval={"corpus": [{"uri": "docs"}], "embedder": str(embedding_model), "cron": "0 3 * * *"})
    docs = path.parent / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("The card desk answers until six.")
    (docs / "b.txt").write_bytes(b"\xff")
    first = materialize(path)
    assert (first["documents"], first["dagster/row_count"], first["documents set aside"]) == (1, 1, 1)
    assert first["set aside"].records[0].data["uri"] == "docs/b.txt"
    with monkeypatch.context() as patched:
        patched.setattr(build_module, "load_embedder", lambda folder: pytest.fail("it was embedded again"))
        assert materialize(path)["id"] == first["id"]
    lake, database = Lake(settings_env.lake_url), Database(settings_env.database_url)
    recorded = database.artifacts_of("ticket_topics")
    assert [row.artifact_id for row in recorded] == [first["id"]]
    (docs / "b.txt").write_text("Transfers arrive within a day.")
    newer = materialize(path)
    latest = database.latest_artifact("ticket_topics", "retrieval_index")
    assert latest is not None and latest.artifact_id == newer["id"] != first["id"]
    found = lineage(newer["id"], lake, database)
    assert found.steps[0].facts == {"documents": 2, "chunks": 2, "set aside": 0, "embedder": str(embedding_model)}
    assert [source.uri for source in found.sources] == ["docs/a.txt", "docs/b.txt"]
    database.close()


def test_only_a_task_with_a_corpus_has_it_and_its_schedule_is_the_task_files(task_file: Any) -> None:
    without = build_defs(tasks=[load_task(task_file())])
    assert KEY not in without.resolve_asset_graph().get_all_asset_keys()
    corpus = [{"uri": "docs"}]
    by_hand = build_defs(tasks=[load_task(task_file(retrieval={"corpus": corpus}))])
    assert KEY in by_hand.resolve_asset_graph().get_all_asset_keys()
    assert "ticket_topics_retrieval_schedule" not in {s.name for s in by_hand.get_repository_def().schedule_defs}
    nightly = build_defs(tasks=[load_task(task_file(retrieval={"corpus": corpus, "cron": "0 3 * * *"}))])
    crons = {s.name: s.cron_schedule for s in nightly.get_repository_def().schedule_defs}
    assert crons["ticket_topics_retrieval_schedule"] == "0 3 * * *"
