"""Evidence to registered adapter: gates, agreement of the parents, the bundle in the lake, MLflow and the aliases.

Steps run in an order that leaves every earlier one true, and each looks before it acts: a registration that was
killed anywhere is completed by the same call, and one that was complete is left as it is.
"""

import tempfile
from pathlib import Path

from finetune_platform.database import Database
from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.manifests import (
    MANIFEST_NAME,
    AdapterManifest,
    DatasetManifest,
    EvaluationManifest,
    RawManifest,
    expect_same,
)
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import Report
from finetune_platform.registry.artifacts import artifact_path
from finetune_platform.registry.bundle import CARD_NAME, adapter_id_of, build_bundle
from finetune_platform.registry.card import model_card
from finetune_platform.registry.making import note_making
from finetune_platform.registry.mlflow_versions import (
    ensure_version,
    model_registry,
    point_alias,
    refuse_unservable_source,
)
from finetune_platform.registry.promotions import record_alias
from finetune_platform.task import Task

CODE_VERSION = "1"
"""Raise it when a bundle of the same inputs would have other content."""

NEW_ARM = "candidate"
"""The evaluated adapter's name in an evaluation's summary."""


def register(
    task: Task,
    evaluation: EvaluationManifest,
    training: TrainingManifest,
    dataset: DatasetManifest,
    base_model: ResolvedModel,
    lake: Lake,
    database: Database,
    tracking_uri: str,
    dagster_run_id: str | None,
    report: Report,
) -> AdapterManifest:
    """Registers a trained adapter: bundle, MLflow version, alias `candidate` (and `champion`, if it is the first).

    Args:
        task: The task it was trained for.
        evaluation: Its evidence; every hard gate must pass.
        training: Its training run, whose `adapter/` folder lies in the lake.
        dataset: What it was trained on.
        base_model: The base model it was trained from, on this machine.
        tracking_uri: MLflow's server or database.
        dagster_run_id: The run that registers, None outside Dagster.
        report: Told of each step.

    Returns:
        The manifest in the lake; of content registered before, the one written then.

    Raises:
        PermanentError: A hard gate does not pass (each with its reason), or the adapter's files are unfit.
        BadInput: The manifests disagree, or MLflow cannot take versions from this lake.
        Unreachable: MLflow, the lake or the database does not answer.
    """
    _refuse_blocked(evaluation)
    raw_id = _check_parents(task, evaluation, training, dataset, base_model)
    refuse_unservable_source(tracking_uri, lake.url)
    raw = lake.manifest(RawManifest, artifact_path("raw_examples", task.name, raw_id))
    adapter = _publish(task, evaluation, training, dataset, raw, base_model, lake, report)
    tags = _tags(adapter, evaluation, dagster_run_id)
    actor = f"dagster run {dagster_run_id}" if dagster_run_id else "finetune"
    with model_registry(tracking_uri) as client:
        source = lake.url_of(adapter.path)
        version = ensure_version(client, task.name, task.description, source, training.mlflow_run_id, tags)
        report(f"MLflow: {task.name} version {version} is {adapter.artifact_id}")
        aliases = {"candidate": f"registered with verdict {evaluation.verdict}"}
        if database.current(task.name, "champion") in (None, adapter.artifact_id):
            aliases["champion"] = "the task's first adapter"
        for alias, reason in aliases.items():
            point_alias(client, task.name, alias, version)
            if record_alias(database, adapter, alias, evaluation.artifact_id, actor, reason, version):
                report(f"{alias} of {task.name} is now {adapter.artifact_id}")
    note_making(database, task, "registered_adapter", adapter, CODE_VERSION, (evaluation, training, dataset))
    return adapter


def _refuse_blocked(evaluation: EvaluationManifest) -> None:
    if blocking := evaluation.blocking:
        lines = [f"  {gate.name} ({gate.slice}): {gate.verdict}: {gate.reason}" for gate in blocking]
        count = f"{len(blocking)} hard gate{'s' if len(blocking) > 1 else ''}"
        raise PermanentError(
            "\n".join([f"{evaluation.artifact_id}: {count} of {evaluation.task} not passed, not registered:", *lines]),
            "improve data or training and run again; an inconclusive gate needs more test rows; the evidence is in "
            f"{evaluation.path}/report.html",
        )


def _check_parents(
    task: Task,
    evaluation: EvaluationManifest,
    training: TrainingManifest,
    dataset: DatasetManifest,
    base_model: ResolvedModel,
) -> str:
    """Stops unless the manifests belong together; returns the id of the raw examples."""
    for manifest in (evaluation, training, dataset):
        expect_same("task", task.name, manifest.task, manifest.artifact_id)
    place = evaluation.artifact_id
    expect_same("trained_adapter", training.artifact_id, evaluation.parents.get("trained_adapter", "absent"), place)
    expect_same("curated_dataset", dataset.artifact_id, evaluation.parents.get("curated_dataset", "absent"), place)
    place = training.artifact_id
    expect_same("curated_dataset", dataset.artifact_id, training.parents.get("curated_dataset", "absent"), place)
    expect_same("system_prompt", task.system_prompt, training.system_prompt, place)
    expect_same("base_model", base_model.name, training.base_model, place)
    expect_same("base_model_revision", base_model.revision, training.base_model_revision, place)
    return dataset.parents["raw_examples"]


def _publish(
    task: Task,
    evaluation: EvaluationManifest,
    training: TrainingManifest,
    dataset: DatasetManifest,
    raw: RawManifest,
    base_model: ResolvedModel,
    lake: Lake,
    report: Report,
) -> AdapterManifest:
    """The bundle at its content address; one that is there stays as it was published."""
    with tempfile.TemporaryDirectory(prefix="finetune-bundle-") as temporary:
        folder = Path(temporary)
        files = build_bundle(folder, lake, training, base_model, task.evaluation.max_new_tokens)
        adapter = AdapterManifest(
            artifact_id=adapter_id_of(files),
            task=task.name,
            parents={
                "evaluation_report": evaluation.artifact_id,
                "trained_adapter": training.artifact_id,
                "curated_dataset": dataset.artifact_id,
                "raw_examples": raw.artifact_id,
            },
            code_version=CODE_VERSION,
            files=files,
            base_model=training.base_model,
            base_model_revision=training.base_model_revision,
            system_prompt=training.system_prompt,
            chat_template_sha256=training.chat_template_sha256,
            summary=evaluation.summary,
            mlflow_model=task.name,
            golden=training.golden,
        )
        url = lake.url_of(adapter.path)
        card = model_card(task, adapter, evaluation, training, dataset, raw, url)
        (folder / CARD_NAME).write_text(card, encoding="utf-8")
        (folder / MANIFEST_NAME).write_bytes(adapter.to_bytes())
        new = lake.publish(folder, adapter.path)
    report(f"bundle {adapter.artifact_id} {'published at' if new else 'is in place at'} {url}")
    return adapter if new else lake.manifest(AdapterManifest, adapter.path)


def _tags(adapter: AdapterManifest, evaluation: EvaluationManifest, dagster_run_id: str | None) -> dict[str, str]:
    """What MLflow shows beside a version: ids, verdict and the new adapter's metrics."""
    tags = {
        "adapter_id": adapter.artifact_id,
        "dataset_id": adapter.parents["curated_dataset"],
        "training_id": adapter.parents["trained_adapter"],
        "evaluation_id": evaluation.artifact_id,
        "verdict": evaluation.verdict,
        "base_model": f"{adapter.base_model}@{adapter.base_model_revision}",
    }
    if dagster_run_id:
        tags["dagster_run_id"] = dagster_run_id
    metrics = evaluation.summary.get(NEW_ARM, {})
    return {**tags, **{f"metric.{name}": f"{values['value']:.4f}" for name, values in metrics.items()}}
