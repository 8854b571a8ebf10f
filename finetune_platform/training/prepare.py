"""Everything between a dataset and the first step: rows, plan, model, preflight, in the order of what may be wrong.

The checks themselves belong in `preflight.py` and `capacity.py`; the steps in `loop.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import ResolvedModel, load_tokenizer
from finetune_platform.inference.precision import Precision
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.progress import Report
from finetune_platform.rows import Example
from finetune_platform.task import Stage
from finetune_platform.training.batches import Step, plan_steps
from finetune_platform.training.capacity import (
    TOKENS_PER_FORWARD,
    memory_available,
    memory_needed,
    require_disk,
    require_memory,
)
from finetune_platform.training.engine import Engine, choose_engine
from finetune_platform.training.model import load_for_training, training_device
from finetune_platform.training.preflight import compare_with_separate_rows, supervised_texts
from finetune_platform.training.replay import Earlier, mix
from finetune_platform.training.rows import TrainRow, read_split, tokenise


class Data(NamedTuple):
    """Tokenised splits, the plan over the training rows and how it is computed; `replayed` were trained on before."""

    rows: list[TrainRow]
    validation: list[TrainRow]
    golden: list[Example]
    plan: list[Step]
    supervised_texts: list[str]
    replayed: int | None
    engine: Engine


class Prepared(NamedTuple):
    """A run that may start."""

    model: Any
    tokenizer: Any
    precision: Precision
    device: str
    data: Data
    preflight: dict[str, Any]


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

    Raises:
        BadInput: A row does not fit the template or `max_length`; the adapter's options do not fit the model.
        PermanentError: The template, the architecture or the memory does not allow this run.
        StorageFailed: The disk is too small.
    """
    device = training_device()
    tokenizer = load_tokenizer(base.path)
    data = read_data(lake, dataset, base, tokenizer, stage, system_prompt, device, report, earlier)
    for number, text in enumerate(data.supervised_texts, 1):
        report(f"preflight: row {number} is trained to say {text!r}")
    model, precision = load_for_training(
        base.path, base.name, stage.peft, dtype=stage.dtype, device=device, seed=stage.seed
    )
    report(f"training: computing in {precision.dtype} on {device}: {precision.reason}")
    needed, available = memory_needed(model, data.rows, data.plan), memory_available(device)
    require_memory(needed, available, f"{base.name} on {device}")
    require_disk(model, work_dir, lake, stage.save_total_limit)
    differences = compare_with_separate_rows(model, data.rows, data.engine)
    report(
        "preflight: a batch and its rows alone agree to "
        f"{differences['loss_difference']:.1e} in the loss, {differences['gradient_difference']:.1e} in the gradient"
    )
    preflight = {
        "supervised_texts": data.supervised_texts,
        "chat_template_sha256": base.chat_template_sha256,
        **differences,
        "memory_needed_bytes": needed,
        "memory_available_bytes": available,
    }
    return Prepared(model, tokenizer, precision, device, data, preflight)


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
) -> Data:
    """The dataset's training and validation rows with their plan."""
    train, replayed = read_split(lake, dataset, "train"), None
    if earlier is not None:
        train, replayed = mix(train, earlier, stage.seed)
        report(f"training: {len(train) - replayed} rows are new to the adapter, {replayed} are replayed")
    validation = read_split(lake, dataset, "validation") if "validation" in dataset.splits else []
    rows = tokenise(train, tokenizer, system_prompt, stage.max_length)
    if not rows:
        raise BadInput(f"{lake.url_of(dataset.path)}: the training split is empty", "add rows to the task's sources")
    texts = supervised_texts(rows, tokenizer)
    taught = _taught(rows)
    if len(taught) < len(rows):
        report(f"training: {len(rows) - len(taught)} rows have only turns of weight 0 and are left out")
    engine = choose_engine(base.path, taught, tokenizer.pad_token_id, device)
    plan = plan_steps(
        engine.shapes(taught),
        epochs=stage.num_train_epochs,
        batch_size=stage.per_device_train_batch_size,
        gradient_accumulation_steps=stage.gradient_accumulation_steps,
        tokens_per_forward=TOKENS_PER_FORWARD[device],
        seed=stage.seed,
    )
    held_out = _taught(tokenise(validation, tokenizer, system_prompt, stage.max_length))
    report(f"training: {len(taught)} rows, {sum(r.supervised for r in taught)} supervised tokens, {len(plan)} steps")
    report(f"training: {engine.reason}")
    return Data(taught, held_out, validation, plan, texts, replayed, engine)


def _taught(rows: Sequence[TrainRow]) -> list[TrainRow]:
    return [row for row in rows if row.supervised]
