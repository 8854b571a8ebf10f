"""Everything between a dataset and the first step: rows, plan, model, preflight, in the order of what may be wrong.

The checks themselves belong in `preflight.py` and `capacity.py`; the steps in `loop.py`.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import ResolvedModel, load_tokenizer
from finetune_platform.inference.precision import Precision
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.manifests_training import PrivacyRecord
from finetune_platform.progress import Report
from finetune_platform.rows import Example
from finetune_platform.task_training import Stage
from finetune_platform.training.batches import Step, plan_steps
from finetune_platform.training.capacity import (
    TOKENS_PER_FORWARD,
    memory_available,
    plan_memory,
    require_disk,
    require_memory,
)
from finetune_platform.training.engine import Engine, choose_engine
from finetune_platform.training.forward import Forward, choose_forward
from finetune_platform.training.model import load_for_training, training_device
from finetune_platform.training.objectives import DirectPreference, KahnemanTversky, Objective
from finetune_platform.training.preflight import compare_with_separate_rows, supervised_texts
from finetune_platform.training.private.accounting import promise
from finetune_platform.training.private.sampling import poisson_plan, sampling_of
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.replay import Earlier, mix
from finetune_platform.training.rows import TrainRow, place_of, read_split
from finetune_platform.training.units import units_of

SHOWN = 300
"""Characters of a row's supervised text in the log; the manifest has all."""


class Data(NamedTuple):
    """Tokenised splits, the plan over the training units and how they are computed.

    Attributes:
        objective: Of the training split; `held_out` of the validation split, None where that has no such rows.
        rows: What the objective reads, every row once.
        golden: Examples to answer when training is done.
        plan: The steps.
        supervised_texts: What the first rows are trained to say.
        replayed: Rows that were trained on before; None without a warm start.
        engine: Of every forward pass.
        promised: What private training promises; None where it is not private.
    """

    objective: Objective
    held_out: Objective | None
    rows: list[TrainRow]
    golden: list[Example]
    plan: list[Step]
    supervised_texts: list[str]
    replayed: int | None
    engine: Engine
    promised: PrivacyRecord | None


class Prepared(NamedTuple):
    """A run that may start."""

    forward: Forward
    tokenizer: Any
    precision: Precision
    device: str
    data: Data
    preflight: dict[str, Any]

    @property
    def model(self) -> Any:
        return self.forward.model


def prepare(
    lake: Lake,
    dataset: DatasetManifest,
    base: ResolvedModel,
    stage: Stage,
    system_prompt: str,
    work_dir: Path,
    report: Report,
    *,
    earlier: Earlier | None = None,
    begin: Callable[[Any], None] = lambda model: None,
    noise_key: bytes = b"",
    processes: Processes = ALONE,
) -> Prepared:
    """Reads, tokenises, plans, loads and proves.

    Args:
        lake: Holds the dataset.
        dataset: Whose rows are trained on.
        base: The model.
        stage: The options.
        system_prompt: Opens every conversation.
        work_dir: For unfinished files.
        report: Told of every step.
        earlier: What a warm start's adapter has been trained on.
        begin: Puts the weights into the model at which training begins.
        noise_key: The run's secret, of private training.
        processes: That train together and all make this call.

    Raises:
        BadInput: A row does not fit the template or `max_length`; the adapter's options do not fit the model.
        PermanentError: The template, the architecture or the memory does not allow this run.
        StorageFailed: The disk is too small.
    """
    tokenizer = load_tokenizer(base.path)
    device = training_device()
    data = read_data(lake, dataset, base, tokenizer, stage, system_prompt, device, report, earlier, noise_key=noise_key)
    for number, text in enumerate(data.supervised_texts, 1):
        report(f"preflight: row {number} is trained to say {text if len(text) <= SHOWN else text[:SHOWN] + '…'!r}")
    return load(lake, base, stage, tokenizer, data, work_dir, report, begin=begin, processes=processes)


def load(
    lake: Lake,
    base: ResolvedModel,
    stage: Stage,
    tokenizer: Any,
    data: Data,
    work_dir: Path,
    report: Report,
    *,
    begin: Callable[[Any], None] = lambda model: None,
    proven: bool = False,
    processes: Processes = ALONE,
) -> Prepared:
    """Loads the model for data that are read, and proves that it may be trained.

    Args:
        lake: Holds checkpoints.
        base: The model.
        stage: The options.
        tokenizer: Of the model.
        data: As `read_data` gave them, with the stage's own plan.
        work_dir: For unfinished files.
        report: Told of every step.
        begin: Puts the weights into the model at which training begins.
        proven: A run on the same data has compared batches with rows, and computed what the reference says.
        processes: That train together and all make this call.

    Raises:
        BadInput: The adapter's options do not fit the model.
        PermanentError: The architecture or the memory does not allow this run.
        StorageFailed: The disk is too small.
    """
    device = training_device()
    _let_go(device)
    model, precision = load_for_training(
        base.path,
        base.name,
        stage.peft,
        dtype=stage.dtype,
        device=device,
        seed=stage.seed,
        quantization=stage.quantization,
        processes=processes,
    )
    forward = choose_forward(model, data.engine)
    report(f"training: computing in {precision.dtype} on {device}: {precision.reason}; {forward.reason}")
    if stage.quantization is not None:
        report(
            f"training: the base model's weights are held in 4 bits ({stage.quantization.in_words}); the adapter "
            "learns beside them and is served beside the base model as it is: what that costs is measured at the end"
        )
    available = memory_available(device)
    if processes.sharded:
        # Of a divided model all compute their layers again, or none does.
        available = min(processes.gather(available))
        report(
            f"training: the base model is divided among {processes.size} processes (FSDP): each holds its part of "
            "every layer and gathers a layer while it computes"
        )
    by_row = data.promised is not None
    memory = plan_memory(
        model, data.objective, data.plan, data.engine, available, by_row=by_row, shards=processes.shards
    )
    require_memory(memory.needed, available, f"{base.name} on {device}", whole=stage.is_whole)
    if memory.checkpointing:
        report("training: memory is short, so layers are computed again for the gradient (a third more work)")
        forward = forward.checkpointed()
    require_disk(model, work_dir, lake, stage.save_total_limit)
    differences = {} if proven else compare_with_separate_rows(forward, data.rows, processes)
    if differences:
        loss, gradient = differences["loss_difference"], differences["gradient_difference"]
        report(f"preflight: a batch and its rows alone agree to {loss:.1e} in the loss, {gradient:.1e} in the gradient")
    # After the comparison: what a fresh adapter's rounding is, a trained one's large scores may multiply.
    processes.one_by_one(lambda: begin(model))
    for objective in () if proven else (data.objective, data.held_out):
        if isinstance(objective, DirectPreference | KahnemanTversky):
            report("training: the reference is the model as it is now; its log-probabilities are computed")
            objective.refer(forward)
    preflight = {
        "supervised_texts": data.supervised_texts,
        "chat_template_sha256": base.chat_template_sha256,
        **differences,
        "memory_needed_bytes": memory.needed,
        "gradient_checkpointing": memory.checkpointing,
        "memory_available_bytes": available,
    }
    return Prepared(forward, tokenizer, precision, device, data, preflight)


def _let_go(device: str) -> None:
    """Gives back the memory of what this process trained before, a stage or a trial: what is free is measured next."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def read_data(
    lake: Lake,
    dataset: DatasetManifest,
    base: ResolvedModel,
    tokenizer: Any,
    stage: Stage,
    system_prompt: str,
    device: str,
    report: Report,
    earlier: Earlier | None = None,
    *,
    noise_key: bytes = b"",
) -> Data:
    """The dataset's training and validation rows of the stage's kind, with their plan.

    Without the run's `noise_key` the plan of a private stage is one of those that it might draw.
    """
    train, replayed = read_split(lake, dataset, "train", stage.kind), None
    if earlier is not None and stage.method == "sft":
        train, replayed = mix(train, earlier, stage.seed)
        report(f"training: {len(train) - replayed} rows are new to the adapter, {replayed} are replayed")
    if not train:
        raise BadInput(
            f"{lake.url_of(dataset.path)}: the training split has no rows of kind {stage.kind}, which {stage.method} "
            "trains on",
            "add such rows to the task's sources",
        )
    validation = read_split(lake, dataset, "validation", stage.kind) if "validation" in dataset.splits else []
    taught = units_of(train, tokenizer, stage, system_prompt)
    if left_out := taught.without:
        report(f"training: {left_out} rows have only turns of weight 0 and are left out")
    texts = supervised_texts(taught.rows, tokenizer)
    private = stage.privacy is not None
    engine = choose_engine(base.path, taught.rows, tokenizer.pad_token_id, device, private=private)
    objective = taught.objective(stage, engine)
    promised = None
    if private:
        sampling = sampling_of(stage, len(taught.rows))
        groups = {place_of(example): example.group_id or place_of(example) for example in train}
        promised = promise(stage, sampling, taught.rows, groups)
        plan = poisson_plan(noise_key, objective.shapes, sampling, TOKENS_PER_FORWARD[device])
        report(
            f"training: differentially private: (epsilon, delta) = {promised.in_words}, by noise of "
            f"{promised.noise_multiplier:.3f} times the {promised.max_grad_norm:g} that each row is clipped to"
        )
        texts = []  # They would stand in the manifest.
    else:
        plan = plan_of(stage, objective, device)
    held_out = units_of(validation, tokenizer, stage, system_prompt)
    supervised = sum(row.supervised for row in taught.rows)
    report(f"training: {len(objective.shapes)} {taught.noun}, {supervised} supervised tokens, {len(plan)} steps")
    report(f"training: {engine.reason}")
    golden = validation if stage.kind == "sft" else read_split(lake, dataset, "validation")
    return Data(
        objective,
        held_out.objective(stage, engine) if held_out.rows else None,
        taught.rows,
        golden,
        plan,
        texts,
        replayed,
        engine,
        promised,
    )


def plan_of(stage: Stage, objective: Objective, device: str) -> list[Step]:
    """Every step of a stage that is not private."""
    return plan_steps(
        objective.shapes,
        epochs=stage.num_train_epochs,
        batch_size=stage.per_device_train_batch_size,
        gradient_accumulation_steps=stage.gradient_accumulation_steps,
        tokens_per_forward=TOKENS_PER_FORWARD[device],
        seed=stage.seed,
    )
