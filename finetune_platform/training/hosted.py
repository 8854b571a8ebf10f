"""Training by a provider that keeps the model: its id, and the record of what came of it.

No step is computed here. Rows as providers take them belong in `hosted_rows.py`; asking the provider belongs in
`resources/openai_launcher.py` and `bedrock_launcher.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.identity import canonical_json, content_id
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DatasetManifest
from finetune_platform.manifests_training import HostedModel, TrainingManifest
from finetune_platform.task import Task
from finetune_platform.training import TRAINING_VERSION


class HostedStep(NamedTuple):
    """A step as the provider tells of it."""

    step: int
    loss: float
    validation_loss: float | None = None


class HostedResult(NamedTuple):
    """What a finished job left. `trained_tokens` is what the provider counts; `seconds` from its start to its end."""

    model: HostedModel
    steps: Sequence[HostedStep]
    trained_tokens: int
    seconds: float


def hosted_run_id(task: Task, dataset: DatasetManifest, options: dict[str, Any]) -> str:
    """The id of the training run that these decide; `options` are the place's own."""
    return content_id(
        "tr",
        {
            "dataset": dataset.artifact_id,
            "system_prompt": task.system_prompt,
            "options": options,
            "version": TRAINING_VERSION,
        },
    )


def expect_plain_sft(task: Task, warm_start: str | None, place: str) -> None:
    """Stops where the task asks for more than supervised fine-tuning of the provider's model.

    Raises:
        BadInput: It does.
    """
    stages = task.training.stages
    if len(stages) != 1 or stages[0].method != "sft":
        raise BadInput(f"training.stages: {place} trains one stage of method sft", "train elsewhere: launcher.place")
    if task.training.fsdp:
        raise BadInput(
            f"training.fsdp: {place} decides itself how it holds its model",
            "leave it out, or train elsewhere: launcher.place",
        )
    if stages[0].is_whole:
        raise BadInput(
            f"training.stages[0].peft: null trains all weights, and {place} does not say which weights it trains",
            "leave it out, or train elsewhere: launcher.place",
        )
    if stages[0].privacy is not None:
        raise BadInput(
            f"training.stages[0].privacy: {place} has no differentially private training",
            "train elsewhere: launcher.place",
        )
    if stages[0].quantization is not None:
        raise BadInput(
            f"training.stages[0].quantization: {place} decides itself how it holds its model",
            "leave it out, or train elsewhere: launcher.place",
        )
    if warm_start is not None:
        raise BadInput(
            f"retraining.warm_start: {warm_start} is an adapter of ours, and {place} cannot begin at it",
            "leave retraining.warm_start out, or train elsewhere: launcher.place",
        )


def publish_hosted(
    task: Task, dataset: DatasetManifest, run_id: str, base_model: str, result: HostedResult, lake: Lake
) -> TrainingManifest:
    """Publishes a training run without weights: `log.jsonl` and the manifest."""
    losses = [step.loss for step in result.steps]
    measured = [step.validation_loss for step in result.steps if step.validation_loss is not None]
    rows = dataset.splits["train"].rows
    manifest = TrainingManifest(
        artifact_id=run_id,
        task=task.name,
        parents={"curated_dataset": dataset.artifact_id},
        code_version=TRAINING_VERSION,
        base_model=base_model,
        base_model_revision=result.model.provider,
        system_prompt=task.system_prompt,
        chat_template_sha256="",
        stages=[stage.model_dump(mode="json") for stage in task.training.stages],
        steps=max((step.step for step in result.steps), default=0),
        train_rows=rows,
        supervised_tokens=result.trained_tokens,
        trainable_parameters=0,
        first_loss=losses[0] if losses else None,
        final_loss=losses[-1] if losses else None,
        validation_loss=measured[-1] if measured else None,
        train_seconds=round(result.seconds, 1),
        rows_per_second=round(rows / result.seconds, 2) if result.seconds else 0.0,
        preflight={},
        golden=[],
        versions={},
        device=result.model.provider,
        hosted=result.model,
    )
    with TemporaryDirectory() as folder:
        lines = "".join(f"{canonical_json(step._asdict())}\n" for step in result.steps)
        (Path(folder) / "log.jsonl").write_text(lines)
        (Path(folder) / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        lake.publish(Path(folder), manifest.path)
    return manifest
