"""The whole chain through Dagster: real training, real evaluation, real MLflow, on a folder and on real servers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult

from finetune_platform.database import Database
from finetune_platform.definitions import build_defs
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME
from finetune_platform.notifications.outbox import newest
from finetune_platform.registry.artifacts import CHAIN
from finetune_platform.sensors.chain import STAGES
from finetune_platform.sensors.run_failure import tell
from finetune_platform.serving import routes
from finetune_platform.settings import Settings, settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

LENIENT = [{"metric": "exact_match", "max_regression_vs": "trivial", "margin": 1.0, "min_n": 1}]
"""Passes whatever a model of random weights answers: the difference cannot be below -1."""

STRICT = [{"metric": "exact_match", "threshold": 0.99}]


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def place(request: pytest.FixtureRequest, settings_env: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An installation: local by default, on S3 and PostgreSQL where the test asks for `servers`."""
    if getattr(request, "param", "local") == "servers":
        monkeypatch.setenv("LAKE_URL", request.getfixturevalue("s3_url"))
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgres_url"))
        settings.cache_clear()
    return settings()


def small_task(task_file: Any, tiny_model: Path, gates: list[dict[str, Any]]) -> Task:
    return load_task(task_file(base_model={"uri": str(tiny_model)}, evaluation={"gates": gates}))


def run(task: Task, instance: DagsterInstance, *stages: str) -> ExecuteInProcessResult:
    job = build_defs(tasks=[task]).resolve_job_def(f"{task.name}_chain")
    selection = [AssetKey([task.name, stage]) for stage in stages or STAGES]
    return job.execute_in_process(instance=instance, asset_selection=selection, raise_on_error=False)


def failures(result: ExecuteInProcessResult) -> str:
    events = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    return "\n".join(str(d.user_failure_data or d.error) for d in events)


@pytest.mark.parametrize("place", ["local", "servers"], indirect=True)
def test_rows_become_a_registered_adapter_once(
    place: Settings, task_file: Any, tiny_model: Path, instance: DagsterInstance
) -> None:
    task = small_task(task_file, tiny_model, LENIENT)
    first = run(task, instance)
    assert first.success, failures(first)
    lake, database = Lake(place.lake_url), Database(place.database_url)
    made = {asset: database.latest_artifact(task.name, asset) for asset in CHAIN}
    assert all(made.values())
    adapter = made["registered_adapter"]
    assert adapter
    assert database.current(task.name, "champion") == adapter.artifact_id
    bundle = {o.path.rpartition("/")[2] for o in lake.list(f"{task.name}/adapters/{adapter.artifact_id}/")}
    expected = {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja", "card.md"}
    assert expected | {"generation_config.json", MANIFEST_NAME} <= bundle
    checks = [e.asset_check_evaluation_data for e in first.all_events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
    assert len(checks) > 10
    for asset, artifact in made.items():
        event = instance.get_latest_materialization_event(AssetKey([task.name, asset]))
        assert event and event.asset_materialization
        shown = {k: v.value for k, v in event.asset_materialization.metadata.items()}
        assert artifact and shown["id"] == artifact.artifact_id
        assert shown["folder"]

    with database.reading() as session:
        plan = routes.current(session, task.name).plan
    assert (plan.champion, plan.canary, plan.canary_share) == (None, adapter.artifact_id, 0.05)

    before = {o.path: o.etag for o in lake.list(f"{task.name}/adapters/")}
    again = run(task, instance)
    assert again.success, failures(again)
    assert {o.path: o.etag for o in lake.list(f"{task.name}/adapters/")} == before
    assert len(database.promotions(task.name)) == 2  # candidate and champion, once
    latest = {asset: database.latest_artifact(task.name, asset) for asset in CHAIN}
    assert {a: r.artifact_id for a, r in latest.items() if r} == {a: r.artifact_id for a, r in made.items() if r}
    database.close()


def test_a_failed_hard_gate_keeps_the_adapter_out_and_its_report_in(
    settings_env: Settings, task_file: Any, tiny_model: Path, instance: DagsterInstance
) -> None:
    task = small_task(task_file, tiny_model, STRICT)
    result = run(task, instance)
    assert not result.success
    lake, database = Lake(settings_env.lake_url), Database(settings_env.database_url)
    evaluation = database.latest_artifact(task.name, "evaluation_report")
    assert evaluation
    report = json.loads(lake.get(f"{task.name}/evaluations/{evaluation.artifact_id}/report.json"))
    assert report["verdict"] != "pass"
    assert database.latest_artifact(task.name, "registered_adapter") is None
    # People hear of the gate, and not of a failed run besides.
    assert not tell(instance, database, result.dagster_run, [task.name])
    [told] = newest(database, task.name, 9)
    assert (told.kind, told.link) == (
        "gate_failed",
        f"lake:{task.name}/evaluations/{evaluation.artifact_id}/report.html",
    )
    assert "exact_match" in told.what
    # Nor does materializing it alone: a check blocks only within its own run.
    alone = run(task, instance, "registered_adapter")
    assert not alone.success
    assert "exact_match" in failures(alone)
    assert lake.list(f"{task.name}/adapters/") == []
    database.close()


def test_bad_rows_end_the_first_step_with_place_and_mend(
    settings_env: Settings, task_file: Any, tiny_model: Path, instance: DagsterInstance
) -> None:
    task = small_task(task_file, tiny_model, LENIENT)
    data = task.folder / "data" / "tickets.jsonl"
    data.write_text(data.read_text().replace('{"prompt"', '{"promt"'))
    result = run(task, instance)
    assert not result.success
    said = failures(result)
    assert "tickets.jsonl" in said
    assert "mend" in said
    lake = Lake(settings_env.lake_url)
    assert lake.list(f"{task.name}/") == []
