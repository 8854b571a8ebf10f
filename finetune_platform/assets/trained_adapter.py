"""`trained_adapter`: the training job, wherever the task's launcher runs it, its progress streamed back."""

import json
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetIn,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
)

from finetune_platform.assets.presentation import link, loss_plot, provenance, table
from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.registry.making import note_making
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.launcher import Launcher
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.resources.workbench import Workbench
from finetune_platform.task import Task
from finetune_platform.training import TRAINING_VERSION
from finetune_platform.training.search.record import SearchManifest

GPU_POOL = "gpu"
"""Limited to one run at a time in `dagster.yaml`."""


def trained_adapter(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, "trained_adapter"])

    @asset(
        key=key,
        ins={"dataset": AssetIn(AssetKey([task.name, "curated_dataset"]))},
        group_name="train",
        kinds={"pytorch", "huggingface", "mlflow"},
        owners=task.owners,
        description=f"{_kind(task)} trained on the dataset; a killed job goes on from its last checkpoint.",
        code_version=TRAINING_VERSION,
        pool=GPU_POOL,
    )
    def build(
        context: AssetExecutionContext,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
        launcher: Launcher,
        workbench: Workbench,
        dataset: DatasetManifest,
    ) -> MaterializeResult[TrainingManifest]:
        champion = database.current(task.name, "champion")
        warm_start = champion if task.retraining.warm_start else None
        job = TrainingJob(task, dataset, warm_start, lake, workbench.tracking, workbench.cache_dir)
        with user_failures():
            path = TrainingManifest.path_of(task.name, launcher.train(context, job))
            training = lake.manifest(TrainingManifest, path)
        note_making(database, task, "trained_adapter", training, TRAINING_VERSION, [dataset])
        return MaterializeResult(
            asset_key=key,
            value=training,
            data_version=DataVersion(training.artifact_id),
            metadata=_metadata(training, lake, workbench.tracking),
        )

    return build


def _kind(task: Task) -> str:
    return "All weights of the base model" if task.training.is_whole else "A LoRA adapter"


def _metadata(training: TrainingManifest, lake: Lake, tracking_uri: str) -> dict[str, Any]:
    if training.hosted is not None:
        return {
            **provenance(training, lake),
            "hosted model": f"{training.hosted.model} at {training.hosted.provider}",
            "job": training.hosted.job,
            "base model": training.base_model,
            "final loss": _number(training.final_loss),
            "validation loss": _number(training.validation_loss),
            "seconds": training.train_seconds,
        }
    log = [json.loads(line) for line in lake.get(f"{training.path}/log.jsonl").splitlines()]
    return {
        **provenance(training, lake),
        "base model": f"{training.base_model}@{training.base_model_revision}",
        "steps": training.steps,
        "loss": loss_plot(log),
        "final loss": training.final_loss,
        "validation loss": training.validation_loss,
        "rows a second": training.rows_per_second,
        "seconds": training.train_seconds,
        "resumed from steps": MetadataValue.json(training.resumed_from_steps),
        "trainable parameters": training.trainable_parameters,
        "device": training.device,
        **(training.usage.in_words() if training.usage else {}),
        **_merge(training),
        **({"base in 4 bits, as served": told} if (told := training.served_in_words) else {}),
        "preflight": MetadataValue.json(training.preflight),
        **_privacy(training),
        **_search(training, lake),
        "mlflow run": f"{training.mlflow_run_id} at {tracking_uri.partition('@')[2] or tracking_uri}",
    }


def _merge(training: TrainingManifest) -> dict[str, str]:
    told = training.merge_in_words
    return {} if told is None else {"golden prompts kept by a merge": told}


def _privacy(training: TrainingManifest) -> dict[str, Any]:
    if not training.privacy:
        return {}
    return {
        "epsilon": max(promised.epsilon for promised in training.privacy),
        "delta": max(promised.delta for promised in training.privacy),
        "privacy": MetadataValue.json([promised.model_dump() for promised in training.privacy]),
    }


def _search(training: TrainingManifest, lake: Lake) -> dict[str, Any]:
    if training.searched is None:
        return {}
    found = lake.manifest(SearchManifest, SearchManifest.path_of(training.task, training.searched.search))
    return {
        "search": training.searched.in_words,
        "search/seconds": found.seconds,
        "search/trials": table(
            ("trial", "state", "validation loss", "steps", *found.chosen),
            [
                {
                    "trial": trial.number,
                    "state": "chosen" if trial.number == found.best else trial.state.replace("_", " "),
                    "validation loss": f"{trial.measured[-1]:.4f}" if trial.measured else "",
                    "steps": f"{trial.steps_done} of {trial.steps}",
                    **{name: f"{value:.3g}" for name, value in trial.options.items()},
                }
                for trial in found.trials
            ],
        ),
        "search/picture": link(lake, f"{found.path}/trials.svg"),
    }


def _number(value: float | None) -> MetadataValue[float | None] | str:
    return "the provider does not tell" if value is None else MetadataValue.float(value)
