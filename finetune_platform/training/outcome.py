"""What a finished stage leaves: its manifest, and its folder in the lake.

The steps that lead there belong in `run.py`.
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DatasetManifest
from finetune_platform.manifests_training import TrainingManifest, Usage
from finetune_platform.storage_errors import disk_failures
from finetune_platform.task import Task
from finetune_platform.task_training import Stage
from finetune_platform.training import TRAINING_VERSION
from finetune_platform.training.beginning import Beginning
from finetune_platform.training.checkpoints import Restored
from finetune_platform.training.curve import loss_curve
from finetune_platform.training.golden import kept_by_merge
from finetune_platform.training.loop import StepLog
from finetune_platform.training.model import save_adapter, trainable
from finetune_platform.training.prepare import Prepared
from finetune_platform.training.served import Served
from finetune_platform.training.tracking import Tracking
from finetune_platform.training.whole_model import is_whole

if TYPE_CHECKING:
    import torch

EDGE_STEPS = 10
"""`first_loss` and `final_loss` are means over so many steps: one tells little."""


def manifest_of(
    task: Task,
    dataset: DatasetManifest,
    base: ResolvedModel,
    stage: Stage,
    run_id: str,
    prepared: Prepared,
    restored: Restored,
    mlflow_run_id: str,
    begins: Beginning,
    usage: Usage,
    served: Served,
) -> TrainingManifest:
    """What a stage that took all its steps says of itself.

    Args:
        task: Whose name and system prompt were used.
        dataset: What was trained on.
        base: The model.
        stage: The options.
        run_id: Of the run.
        prepared: What ran.
        restored: Where all steps led.
        mlflow_run_id: Where MLflow has it.
        begins: At which weights, and the stages before.
        usage: What it took.
        served: What answers; its adapter is merged into the base weights here, to see whether it answers the same.
    """
    log, data, before = restored.log, prepared.data, begins.stages
    promised = [data.promised] if data.promised else []
    packages = ["torch", "transformers", "peft", *(["opacus"] if promised else [])]
    packages += ["bitsandbytes"] if stage.quantization else []
    merges = served.model is not None and not is_whole(served.model)
    kept = kept_by_merge(served.model, prepared.tokenizer, served.golden) if merges else None
    seconds = sum(entry.seconds for entry in log)
    measured = [entry.validation_loss for entry in log if entry.validation_loss is not None]
    return TrainingManifest(
        artifact_id=run_id,
        task=task.name,
        parents={
            "curated_dataset": dataset.artifact_id,
            **({"warm_start": begins.adapter} if begins.adapter else {}),
            **({"search": begins.searched.search} if begins.searched else {}),
        },
        code_version=TRAINING_VERSION,
        base_model=base.name,
        base_model_revision=base.revision,
        system_prompt=task.system_prompt,
        chat_template_sha256=base.chat_template_sha256,
        stages=[*(before.stages if before else []), {"training_run": run_id, **stage.model_dump(mode="json")}],
        steps=len(log),
        kinds=sorted({stage.kind, *(before.kinds if before else [])}),
        train_rows=len(data.objective.shapes),
        replayed_rows=before.replayed_rows if data.replayed is None and before else data.replayed,
        supervised_tokens=sum(row.supervised for row in data.rows),
        trainable_parameters=sum(p.numel() for p in trainable(prepared.model)),
        first_loss=_mean_loss(log[:EDGE_STEPS]),
        final_loss=_mean_loss(log[-EDGE_STEPS:]),
        validation_loss=measured[-1] if measured else None,
        train_seconds=round(seconds + (before.train_seconds if before else 0), 1),
        rows_per_second=round(sum(entry.rows for entry in log) / seconds, 2),
        resumed_from_steps=restored.resumed_from_steps,
        preflight=prepared.preflight,
        golden=served.golden,
        versions={name: version(name) for name in packages},
        device=usage.device,
        mlflow_run_id=mlflow_run_id,
        usage=usage,
        golden_kept_by_merge=kept,
        privacy=[*(before.privacy if before else []), *promised],
        searched=begins.searched,
        served=served.record,
    )


def _mean_loss(log: list[StepLog]) -> float:
    return sum(entry.loss for entry in log) / len(log)


def publish(
    lake: Lake,
    manifest: TrainingManifest,
    prepared: Prepared,
    log: list[StepLog],
    work_dir: Path,
    tracking: Tracking,
    weights: "dict[str, torch.Tensor] | None",
) -> None:
    """The folder of the run, its manifest last; MLflow gets copies of what people look at.

    `weights` are those of a model that was trained whole and divided among processes.
    """
    folder = work_dir / "result"
    files: dict[str, Any] = {
        "log.jsonl": "".join(f"{entry.line()}\n" for entry in log).encode(),
        "loss.svg": loss_curve(log, f"{manifest.task}: {manifest.artifact_id}"),
    }
    with disk_failures(folder):
        save_adapter(prepared.model, folder / "adapter", weights)
        for name, content in files.items():
            (folder / name).write_bytes(content)
            tracking.add_file(name, content)
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    lake.publish(folder, manifest.path)
