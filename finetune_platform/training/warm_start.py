"""Training that begins at an adapter's weights instead of fresh ones. Shapes and base model must be the same."""

import json
from pathlib import Path
from typing import Any

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.progress import Report
from finetune_platform.task import Stage, Task
from finetune_platform.training.model import ADAPTER_CONFIG, restore_adapter

SHAPE = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora")
MEND = "train from scratch: leave retraining.warm_start out"


def stage_of(task: Task, warm: bool) -> Stage:
    """The options of a run: the task's stage, with what `retraining.warm_start` says otherwise."""
    stage, own = task.training.stages[0], task.retraining.warm_start
    if not warm or own is None:
        return stage
    said = own.model_dump(include={"num_train_epochs", "learning_rate"}, exclude_none=True)
    return stage.model_copy(update=said)


def expect_same_base(adapter: AdapterManifest, base: ResolvedModel) -> None:
    """Stops where the adapter stands on another base model than the one to be trained.

    Raises:
        BadInput: It does.
    """
    if adapter.base_model_revision != base.revision:
        raise BadInput(
            f"{adapter.artifact_id} stands on {adapter.base_model}@{adapter.base_model_revision}, this run on "
            f"{base.name}@{base.revision}",
            MEND,
        )


def begin_at(model: Any, adapter: AdapterManifest, stage: Stage, lake: Lake, folder: Path, report: Report) -> None:
    """Puts an adapter's weights into a model that is about to be trained.

    Args:
        model: With a fresh adapter of the stage's shape.
        adapter: A registered one.
        stage: Says the shape.
        lake: Holds the adapter.
        folder: Where its files are fetched to.

    Raises:
        BadInput: The adapter has another shape than the stage.
    """
    files = lake.fetch(adapter.path, folder / adapter.artifact_id)
    theirs = json.loads((files / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    ours = model.peft_config["default"].to_dict()
    for name in SHAPE:
        if _plain(theirs.get(name)) != _plain(ours.get(name)):
            raise BadInput(
                f"{adapter.artifact_id}: its {name} is {theirs.get(name)}, that of training.stages[0].peft is "
                f"{ours.get(name)}",
                MEND,
            )
    restore_adapter(model, files)
    report(f"training: begins at the weights of {adapter.artifact_id}")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | list) else value
