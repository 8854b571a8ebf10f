"""Training that begins at weights that were trained before, instead of fresh ones: a warm start, or the stage before.

Shapes and base model must be the same, and an adapter stays an adapter. Which rows a warm start trains on belongs in
`replay.py`.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.manifests import WHOLE_CONFIG, WHOLE_WEIGHTS, AdapterManifest
from finetune_platform.manifests_training import SearchRecord, TrainingManifest
from finetune_platform.progress import Report
from finetune_platform.storage_errors import disk_failures
from finetune_platform.task_training import Stage
from finetune_platform.training.model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, restore_adapter
from finetune_platform.training.replay import MEND, Earlier
from finetune_platform.training.whole_model import is_whole

SHAPE = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora")


class Beginning(NamedTuple):
    """At which weights a stage begins.

    Attributes:
        artifact_id: Of the adapter or training run; None for fresh weights.
        files: Their folder in the lake.
        adapter: The registered adapter at which the first stage began, if one did.
        earlier: What that has been trained on, where rows are replayed.
        stages: The run of the stage before.
        searched: The search that chose the options of this stage or one before.
    """

    artifact_id: str | None = None
    files: str | None = None
    adapter: str | None = None
    earlier: Earlier | None = None
    stages: TrainingManifest | None = None
    searched: SearchRecord | None = None


FRESH = Beginning()


def at_adapter(adapter: AdapterManifest) -> Beginning:
    """A warm start at a registered adapter."""
    return Beginning(adapter.artifact_id, adapter.path, adapter.artifact_id)


def after_stage(run: TrainingManifest) -> Beginning:
    """Where the next stage begins."""
    adapter = run.parents.get("warm_start")
    return Beginning(run.artifact_id, f"{run.path}/adapter", adapter, stages=run, searched=run.searched)


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


def expect_same_kind(begins: Beginning, stage: Stage, lake: Lake) -> None:
    """Stops where an adapter is to be trained from a whole model, or a whole model from an adapter.

    Raises:
        BadInput: It is.
    """
    whole = lake.exists(f"{begins.files}/{WHOLE_WEIGHTS}")
    if whole and not stage.is_whole:
        raise BadInput(
            f"{begins.artifact_id}: all of its weights were trained, and training.stages[0].peft asks for an adapter",
            f"set training.stages[0].peft: null, or {MEND}",
        )
    if not whole and stage.is_whole:
        raise BadInput(
            f"{begins.artifact_id}: it is an adapter, and training.stages[0].peft: null trains all weights",
            f"name its shape in training.stages[0].peft, or {MEND}",
        )


def begin_at(model: Any, begins: Beginning, lake: Lake, folder: Path, report: Report) -> None:
    """Puts trained weights into a model that is about to be trained.

    Args:
        model: With a fresh adapter of the stage's shape, or with none where all weights are trained.
        begins: Where.
        lake: Holds the weights.
        folder: Where their files are fetched to.

    Raises:
        BadInput: They have another shape than the stage.
    """
    assert begins.files is not None and begins.artifact_id is not None
    with disk_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WHOLE_CONFIG, WHOLE_WEIGHTS) if is_whole(model) else (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            with (folder / name).open("wb") as stream:
                stream.writelines(lake.chunks(f"{begins.files}/{name}"))
    if not is_whole(model):
        _expect_same_shape(model, folder, begins)
    restore_adapter(model, folder)
    shutil.rmtree(folder)
    report(f"training: begins at the weights of {begins.artifact_id}")


def _expect_same_shape(model: Any, folder: Path, begins: Beginning) -> None:
    theirs = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    ours = model.peft_config["default"].to_dict()
    for name in SHAPE:
        if _plain(theirs.get(name)) != _plain(ours.get(name)):
            raise BadInput(
                f"{begins.artifact_id}: its {name} is {theirs.get(name)}, that of training.stages[0].peft is "
                f"{ours.get(name)}",
                MEND,
            )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | list) else value
