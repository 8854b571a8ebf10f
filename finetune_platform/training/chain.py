"""The stages of a task's training, each a run of its own that begins at the weights which the one before led to.

A finished stage is found by its id and not trained again: who changes the options of the last one waits for the last
one only. What a stage does belongs in `run.py`.
"""

from pathlib import Path

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import resolve_base_model
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.task import Task
from finetune_platform.task_labeling import WarmStart
from finetune_platform.task_training import Stage
from finetune_platform.training.beginning import FRESH, after_stage, at_adapter, expect_same_base, expect_same_kind
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.quantised import require_bitsandbytes
from finetune_platform.training.replay import earlier_rows
from finetune_platform.training.run import run_stage
from finetune_platform.training.search.options import with_options
from finetune_platform.training.search.proposals import require_optuna
from finetune_platform.training.search.search import noted, run_search
from finetune_platform.training.surroundings import Surroundings


def run_training(
    task: Task,
    dataset: DatasetManifest,
    lake: Lake,
    cache_dir: Path,
    surroundings: Surroundings,
    *,
    warm_start: AdapterManifest | None = None,
    processes: Processes = ALONE,
) -> TrainingManifest:
    """Trains the task's adapter on a dataset, stage by stage, and publishes each.

    Args:
        task: Whose base model, system prompt and stages are used.
        dataset: Published in the lake.
        lake: Holds dataset, checkpoints and results.
        cache_dir: Local copies of models.
        surroundings: Where it runs and who is told.
        warm_start: A registered adapter at whose weights training begins, by `retraining.warm_start`; None: at
            fresh ones, with all rows.
        processes: That train together and all make this call.

    Returns:
        The last stage's manifest.

    Raises:
        Stopped: `surroundings.stop` said so; the same call goes on from there.
        FinetuneError: Naming what to change; checkpoints are kept.
    """
    if task.training.fsdp:
        processes = processes._replace(sharded=processes.size > 1)
        if not processes.sharded:
            surroundings.report("training: one process holds the whole base model: training.fsdp divides nothing here")
    require_bitsandbytes(task.training.stages)
    search = task.training.search
    if search is not None:
        require_optuna()
    base = resolve_base_model(task.base_model, task.folder, lake, cache_dir, surroundings.report)
    begins, earlier = FRESH, None
    if warm_start is not None:
        if any(stage.privacy for stage in task.training.stages):
            raise BadInput(
                f"{warm_start.artifact_id}: its weights hold rows that training.stages[].privacy would not cover",
                "train from scratch: leave the warm start out",
            )
        expect_same_base(warm_start, base)
        begins = at_adapter(warm_start)
        expect_same_kind(begins, task.training.stages[0], lake)
        earlier = earlier_rows(warm_start, (task.retraining.warm_start or WarmStart()).replay_share, lake)
    stages = [_warm(stage, task) if warm_start else stage for stage in task.training.stages]
    for number in range(len(stages)):
        stage = stages[number]
        if len(stages) > 1:
            surroundings.report(f"training: stage {number + 1} of {len(stages)}: {stage.method}")
        begins = begins._replace(earlier=earlier if stage.method == "sft" else None)
        if search is not None and number == search.stage:
            found = run_search(task, stage, dataset, base, lake, surroundings, begins=begins, processes=processes)
            begins = begins._replace(searched=noted(found))
            stage = with_options(stage, found.chosen)
            # All stages train one adapter.
            stages = [other.model_copy(update={"peft": stage.peft}) for other in stages]
        manifest = run_stage(task, stage, dataset, base, lake, surroundings, begins=begins, processes=processes)
        begins = after_stage(manifest)
    return manifest


def _warm(stage: Stage, task: Task) -> Stage:
    """The stage with what `retraining.warm_start` says otherwise of training on answers."""
    own = task.retraining.warm_start
    if own is None or stage.method != "sft":
        return stage
    return stage.model_copy(update=own.model_dump(include={"num_train_epochs", "learning_rate"}, exclude_none=True))
