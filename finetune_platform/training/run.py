"""One stage of training from a dataset to a published adapter, or the rest of one that was killed.

Its id is the hash of what decides its outcome: a finished run is returned, an unfinished one goes on from its newest
whole checkpoint. Preparing belongs in `prepare.py`, what it leaves in `outcome.py`, the order of stages in `chain.py`.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from finetune_platform.identity import content_id
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.inference.precision import choose_precision
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import Ticker
from finetune_platform.task import Task
from finetune_platform.task_training import Stage
from finetune_platform.training import TRAINING_VERSION
from finetune_platform.training.attempts import attempt
from finetune_platform.training.beginning import FRESH, Beginning, begin_at
from finetune_platform.training.capacity import TOKENS_PER_FORWARD
from finetune_platform.training.checkpoints import (
    CheckpointRecord,
    Restored,
    complete_steps,
    restore_checkpoint,
    save_checkpoint,
)
from finetune_platform.training.divergence import LossWatch
from finetune_platform.training.energy import EnergyMeter
from finetune_platform.training.loop import StepLog, Stopped, train_steps
from finetune_platform.training.model import training_device
from finetune_platform.training.optimizer import learning_rates, optimizer_of
from finetune_platform.training.outcome import manifest_of, publish
from finetune_platform.training.prepare import Prepared, prepare
from finetune_platform.training.private.gradients import PrivateGradient
from finetune_platform.training.private.sampling import forget_noise_key, noise_key
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.random_state import random_state, seed_everything
from finetune_platform.training.served import served_as
from finetune_platform.training.sharded import weights_together
from finetune_platform.training.surroundings import Surroundings
from finetune_platform.training.tracking import TrackedRun, tracked
from finetune_platform.training.usage import usage_of
from finetune_platform.training.whole_model import base_of

PROMISED = {"epsilon", "delta", "noise_multiplier", "sample_rate"}
"""What MLflow has of a private stage's promise, beside its options."""


def training_run_id(
    dataset_id: str,
    base_model_revision: str,
    system_prompt: str,
    stage: Stage,
    begins_at: str | None = None,
    replay_share: float = 0.0,
) -> str:
    """The id of the run that these decide; `replay_share` is a warm start's."""
    return content_id(
        "tr",
        {
            **({"begins_at": begins_at, "replay_share": replay_share} if begins_at else {}),
            "dataset": dataset_id,
            "base_model_revision": base_model_revision,
            "system_prompt": system_prompt,
            "stage": stage.model_dump(mode="json"),
            "version": TRAINING_VERSION,
        },
    )


def run_stage(
    task: Task,
    stage: Stage,
    dataset: DatasetManifest,
    base: ResolvedModel,
    lake: Lake,
    surroundings: Surroundings,
    *,
    begins: Beginning = FRESH,
    processes: Processes = ALONE,
) -> TrainingManifest:
    """Trains one stage on a dataset and publishes what it leads to.

    Args:
        task: Whose name and system prompt are used.
        stage: The options.
        dataset: Published in the lake.
        base: The model.
        lake: Holds dataset, checkpoints and result.
        surroundings: Where it runs and who is told.
        begins: At which weights, and what they have been trained on.
        processes: That train together and all make this call; the first one writes, tracks and publishes.

    Returns:
        The run's manifest: a new one, or that of the finished run with this id.

    Raises:
        Stopped: `surroundings.stop` said so; the same call goes on from there.
        FinetuneError: Naming what to change; checkpoints are kept.
    """
    report = surroundings.report
    replay_share = begins.earlier.replay_share if begins.earlier else 0.0
    run_id = training_run_id(
        dataset.artifact_id, base.revision, task.system_prompt, stage, begins.artifact_id, replay_share
    )
    path = f"{task.name}/training_runs/{run_id}"
    if lake.is_published(path):
        forget_noise_key(lake, path)  # Where a process was killed before it could.
        report(f"training: {run_id} is finished already")
        return lake.manifest(TrainingManifest, path)
    report(f"training: {run_id}: {base.name}@{base.revision} on {dataset.artifact_id}")
    own_work = surroundings.work_dir / (run_id if processes.leads else f"{run_id}-{processes.rank}")
    shutil.rmtree(own_work, ignore_errors=True)  # What a killed process of this run left.
    entered = tracked_run(task, dataset, base, stage, run_id, surroundings.tags)
    begun_at = max(complete_steps(lake, path), default=0)
    with (
        attempt(lake, path, begun_at) if processes.leads else nullcontext(lambda step: None) as reach,
        tracked(surroundings.tracking_uri, lake, entered, report) if processes.leads else nullcontext() as opening,
    ):
        # What a measurement decides, the first decides for all.
        dtype = processes.gather(choose_precision(stage.dtype, training_device()).dtype)[0]
        agreed = stage if processes.size == 1 else stage.model_copy(update={"dtype": dtype})

        def begin(model: Any) -> None:
            if begins.files is not None:
                begin_at(model, begins, lake, own_work / "begins_at", report)

        key = processes.gather(noise_key(lake, path) if stage.privacy and processes.leads else b"")[0]
        prepared = prepare(
            lake,
            dataset,
            base,
            agreed,
            task.system_prompt,
            own_work,
            report,
            earlier=begins.earlier,
            begin=begin,
            noise_key=key,
            processes=processes,
        )
        promised = prepared.data.promised
        tracking = opening.result() if opening else None
        energy = EnergyMeter(prepared.device)
        if tracking and promised:
            tracking.log_figures(promised.model_dump(include=PROMISED), 0)

        def told(entry: StepLog) -> None:
            reach(entry.step)
            energy.sample()
            if tracking:
                tracking.log_step(entry)
            surroundings.on_metrics(entry)

        private = PrivateGradient(prepared.forward, promised, key) if promised else None
        restored = _train(prepared, stage, lake, path, own_work, surroundings, told, processes, private)
        served, weights = None, weights_together(base_of(prepared.model))
        if processes.leads or processes.sharded:  # A divided model answers where all of it is.
            served = served_as(prepared, base, stage, task.system_prompt, begin, restored.log, report)
        if tracking and served:
            resumed = bool(restored.resumed_from_steps)
            usage = usage_of(prepared, restored.log, stage, task.cost, energy, resumed=resumed, processes=processes)
            tracking.log_usage(usage, len(restored.log))
            if served.record and served.record.validation_loss is not None:
                tracking.log_figures({"served_validation_loss": served.record.validation_loss}, len(restored.log))
            manifest = manifest_of(
                task, dataset, base, stage, run_id, prepared, restored, tracking.run_id, begins, usage, served
            )
            publish(lake, manifest, prepared, restored.log, own_work, tracking, weights)
            forget_noise_key(lake, path)
            report(f"training: {run_id} is published: final loss {manifest.final_loss:.4f}")
        processes.wait()
    shutil.rmtree(own_work, ignore_errors=True)
    return lake.manifest(TrainingManifest, path)


def _train(
    prepared: Prepared,
    stage: Stage,
    lake: Lake,
    path: str,
    work_dir: Path,
    surroundings: Surroundings,
    told: Callable[[StepLog], None],
    processes: Processes,
    private: PrivateGradient | None,
) -> Restored:
    """All steps that are still to do, with their checkpoints; returns where that led."""
    model, device, data, report = prepared.model, prepared.device, prepared.data, surroundings.report
    optimizer = optimizer_of(model, stage, processes)
    seed_everything(stage.seed + processes.rank)  # Else all would drop out the same.
    log: list[StepLog] = []
    resumed_from: list[int] = []
    if saved := complete_steps(lake, path):
        restored = restore_checkpoint(
            lake, path, saved[-1], model, optimizer, device, work_dir=work_dir, processes=processes
        )
        log, resumed_from = restored.log, [*restored.resumed_from_steps, restored.step]
        report(f"training: goes on after step {restored.step} of {len(data.plan)}")
    start, saved_at, rows_done, watch = len(log), len(log), 0, LossWatch()
    for entry in log:
        if entry.rows:
            watch.see(entry.loss)

    def save(step: int) -> None:
        record = CheckpointRecord(training_run=path.rpartition("/")[2], step=step, resumed_from_steps=resumed_from)
        states, keep = processes.gather(random_state()), stage.save_total_limit
        save_checkpoint(
            lake, path, record, model, optimizer, log, states, work_dir=work_dir, keep=keep, processes=processes
        )
        processes.wait()

    rates = learning_rates(len(data.plan), stage.learning_rate, stage.lr_scheduler_type, stage.warmup_ratio)
    ticker = Ticker(
        report, "training", len(data.plan), "steps", rate_unit="rows", every_s=surroundings.progress_every_s
    )
    steps = train_steps(
        prepared.forward,
        optimizer,
        data.objective,
        data.plan,
        rates,
        held_out=data.held_out,
        eval_steps=stage.eval_steps,
        tokens_per_forward=TOKENS_PER_FORWARD[device],
        max_grad_norm=stage.max_grad_norm,
        start=start,
        stop=surroundings.stop,
        processes=processes,
        private=private,
    )
    try:
        for entry in steps:
            log.append(entry)
            told(entry)
            rows_done += entry.rows
            ticker.at(entry.step, rows_done, _detail(entry))
            if entry.rows:
                watch.see(entry.loss)
            if entry.step % stage.save_steps == 0 or entry.step == len(data.plan):
                save(entry.step)
                saved_at = entry.step
    except Stopped as stopped:
        if stopped.steps_done != saved_at:
            save(stopped.steps_done)
        report(f"training: stopped after step {stopped.steps_done} of {len(data.plan)}; the same command goes on there")
        raise
    return Restored(len(log), log, resumed_from)


def _detail(entry: StepLog) -> str:
    measured = "" if entry.validation_loss is None else f", validation {entry.validation_loss:.4f}"
    margin = f", margin {entry.measures['reward_margin']:+.3f}" if "reward_margin" in entry.measures else ""
    return f"{entry.tokens_per_second:,.0f} tokens/s | loss {entry.loss:.4f}{measured}{margin}"


def tracked_run(
    task: Task, dataset: DatasetManifest, base: ResolvedModel, stage: Stage, run_id: str, tags: Mapping[str, str]
) -> TrackedRun:
    """What MLflow is told of a run before it begins."""
    options = stage.model_dump(mode="json")
    peft = options.pop("peft") or {"": None}
    params = {**options, **{f"peft.{k}".rstrip("."): v for k, v in peft.items()}}
    for part in ("privacy", "quantization"):
        params |= {f"{part}.{k}": v for k, v in (params.pop(part) or {}).items()}
    params |= {"base_model": base.name, "base_model_revision": base.revision, "system_prompt": task.system_prompt}
    return TrackedRun(task.name, run_id, params, {"dataset_id": dataset.artifact_id, **tags})
