"""A base model in a folder gets other weights: noticed by the sensor, measured once, shown, accepted by a person."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, SensorResult
from recorded_chain import Chain, RecordedEngine, good_adapter
from typer.testing import CliRunner

from finetune_platform import audit
from finetune_platform.cli import app
from finetune_platform.database import Database
from finetune_platform.definitions import build_defs
from finetune_platform.evaluation.evaluate import evaluate
from finetune_platform.inference.base_models import resolve_base_model
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, ProposalManifest
from finetune_platform.notifications.outbox import newest
from finetune_platform.sensors.base_model_update import MARK_TAG, tick
from finetune_platform.sensors.new_data import Cursor
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

NOW = 1_800_000_000.0


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "tasks" / "base"))


@pytest.fixture
def task(settings_env: Settings, task_file: Any, task: Task, base: Path) -> Task:
    """The task `people` as a file, on a base model in a folder beside it."""
    own = task.model_dump(mode="json", include={"name", "system_prompt", "baseline_prompt", "evaluation"})
    own["evaluation"] |= {"max_new_tokens": 4, "benchmarks": [{"name": "test", "max_rows": 24}], "gates": []}
    return load_task(task_file(**own, base_model={"uri": "./base", "name": "tiny"}))


@pytest.fixture
def database(settings_env: Settings) -> Iterator[Database]:
    opened = Database(settings_env.database_url)
    yield opened
    opened.close()


@pytest.fixture
def champion(task: Task, settings_env: Settings, base: Path, database: Database, tmp_path: Path) -> AdapterManifest:
    """A champion with a real adapter of the base model, and its evaluation."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lake = Lake(settings_env.lake_url)
    chain = Chain(lake, tmp_path / "upstream")
    model = resolve_base_model(task.base_model, task.folder, lake, settings_env.cache_dir, lambda _: None)
    stands_on = {
        "base_model": model.name,
        "base_model_revision": model.revision,
        "chat_template_sha256": model.chat_template_sha256,
    }
    engine = RecordedEngine(good_adapter)
    training = chain.training(**stands_on)
    evaluation = evaluate(task, chain.dataset, training, None, engine, lake, tmp_path / "work", lambda _: None)
    made = chain.champion("tr-1", **stands_on)
    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear"))
    adapter.save_pretrained(tmp_path / "adapter")
    parents = {**made.parents, "evaluation_report": evaluation.artifact_id}
    bundle = made.model_copy(update={"artifact_id": "ad-0123456789ab", "parents": parents})
    (tmp_path / "adapter" / "manifest.json").write_bytes(bundle.to_bytes())
    lake.publish(tmp_path / "adapter", bundle.path)
    database.record_promotion(
        task=task.name,
        adapter_id=bundle.artifact_id,
        alias="champion",
        previous_adapter_id=None,
        evaluation_id=evaluation.artifact_id,
        actor="test",
        reason="first",
        mlflow_version=None,
    )
    return bundle


def other_weights(base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_pretrained(base)
        for weights in model.parameters():
            torch.nn.init.normal_(weights, std=0.02)
        model.save_pretrained(base)


class Daemon:
    """Ticks the sensor as Dagster's daemon does, and executes what it asks for."""

    def __init__(self, task: Task, place: Settings, database: Database, instance: DagsterInstance) -> None:
        self.task, self.lake, self.database, self.instance = task, Lake(place.lake_url), database, instance
        self.cursor: str | None = None
        self.runs = 0

    def tick(self) -> str:
        result = self._evaluate()
        self.cursor = result.cursor
        for request in result.run_requests or []:
            job = build_defs(tasks=[self.task]).resolve_job_def("people_base_model_proposal")
            assert job.execute_in_process(instance=self.instance, tags=dict(request.tags)).success
            assert MARK_TAG in request.tags
            self.runs += 1
            return "run"
        return str(result.skip_reason.skip_message) if result.skip_reason else ""

    def _evaluate(self) -> SensorResult:
        return tick(self.task, self.lake, self.database, self.instance, Cursor.read(self.cursor), NOW)

    def proposals(self) -> list[str]:
        paths = self.lake.list("people/migrations/")
        return sorted({info.path.split("/")[2] for info in paths})


def test_without_a_champion_there_is_nothing_to_compare_with(
    task: Task, settings_env: Settings, database: Database, instance: DagsterInstance
) -> None:
    assert Daemon(task, settings_env, database, instance).tick() == "people has no champion to compare with"
    told = CliRunner().invoke(app, ["base-model", "people"])
    assert told.exit_code == 2 and "nothing was proposed" in told.output


def test_weights_that_change_are_proposed_once_and_nothing_moves(
    task: Task,
    champion: AdapterManifest,
    settings_env: Settings,
    base: Path,
    database: Database,
    instance: DagsterInstance,
) -> None:
    daemon = Daemon(task, settings_env, database, instance)
    # A folder has to be read once to know that it is the champion's.
    said = [daemon.tick() for _ in range(4)]
    assert (said[1], daemon.proposals()) == ("run", []) and "is settled" in said[3]
    before = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    other_weights(base)
    assert hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest() != before
    assert "must be the same at the next tick" in daemon.tick()
    assert daemon.tick() == "run"
    [proposal_id] = daemon.proposals()
    assert "its run succeeded" in daemon.tick() and "is settled" in daemon.tick()
    # A lost cursor repeats no work, and lost runs no measurement.
    daemon.cursor = None
    assert [daemon.tick() for _ in range(3)][-1] != "run"
    assert (daemon.runs, daemon.proposals()) == (2, [proposal_id])

    proposal = daemon.lake.manifest(ProposalManifest, ProposalManifest.path_of("people", proposal_id))
    assert (proposal.revision_before, proposal.base_model) == (champion.base_model_revision, "tiny")
    assert proposal.parents["registered_adapter"] == champion.artifact_id
    # Random weights know no people: the recorded champion was right nine times of ten.
    assert proposal.recommendation == "stay" and "the champion's adapter on the new base" in proposal.headline
    [told] = newest(database, "people", 9)
    assert told.key == f"base_model_update:people:{proposal_id}" and proposal.headline in told.what
    assert database.current("people", "champion") == champion.artifact_id

    shown = CliRunner().invoke(app, ["base-model", "people"])
    assert shown.exit_code == 0 and proposal.headline in shown.stdout.replace("\n", "")
    assert "proposal.html" in shown.stdout and "old files back" in shown.stdout
    assert CliRunner().invoke(app, ["base-model", "people", "--accept"]).exit_code == 2
    text = task.path.read_text() if task.path else ""
    accepted = CliRunner().invoke(app, ["base-model", "people", "--accept", "--reason", "faster"])
    assert accepted.exit_code == 0 and "nothing was edited" in accepted.stdout
    assert task.path is not None and task.path.read_text() == text
    [entry] = audit.entries(database, "people")
    assert (entry.action, entry.reason, entry.details["proposal"]) == ("base_model.accept", "faster", proposal_id)
