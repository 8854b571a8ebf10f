"""A finished adapter beside the base model as it is served, where training held that in 4 bits.

Evaluation, gateway and export load the base model as it is, so this is the model that people get. What is measured here
says what became of the adapter on the way.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.manifests_training import ServedRecord
from finetune_platform.progress import Report
from finetune_platform.task_training import Stage
from finetune_platform.training.capacity import TOKENS_PER_FORWARD, memory_available, memory_needed
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.golden import golden_answers
from finetune_platform.training.loop import StepLog, mean_loss, sorted_batches
from finetune_platform.training.model import load_for_training, trainable
from finetune_platform.training.objectives import DirectPreference, KahnemanTversky
from finetune_platform.training.prepare import Prepared
from finetune_platform.training.sharded import is_sharded
from finetune_platform.training.whole_model import base_of, is_whole
from finetune_platform.training.work import network_of


class Served(NamedTuple):
    """What answers once the adapter is served.

    Attributes:
        model: The trained one itself where the base model was as it is; None where it could not be loaded, and where it
            is divided among processes: nothing can be merged into a part.
        golden: Its answers to the golden prompts; those of the trained model where it could not.
        record: What it is worth, None where it is the trained one.
    """

    model: Any | None
    golden: list[dict[str, Any]]
    record: ServedRecord | None


def served_as(
    prepared: Prepared,
    base: ResolvedModel,
    stage: Stage,
    system_prompt: str,
    begin: Callable[[Any], None],
    log: Sequence[StepLog],
    report: Report,
) -> Served:
    """The finished adapter beside the base model as it is, and what it is worth there.

    Args:
        prepared: Whose model took all its steps.
        base: The model.
        stage: The options.
        system_prompt: Opens every conversation.
        begin: As in `prepare`: the reference of `dpo` and `kto` is the model at the beginning, beside the same base.
        log: Every step.
        report: Told of what was found.
    """

    def answers(model: Any) -> list[dict[str, Any]]:
        return golden_answers(model, prepared.tokenizer, prepared.data.golden, system_prompt)

    trained = answers(prepared.model)
    if stage.quantization is None:
        if is_sharded(base_of(prepared.model)) and not is_whole(prepared.model):
            report("training: whether a merge keeps the answers was not tested: the base model is divided")
            return Served(None, trained, None)
        return Served(prepared.model, trained, None)
    reason = _too_large(prepared)
    if reason is None:
        import torch

        try:
            model, loss = _measured(prepared, base, stage, begin)
            golden = answers(model)
        except torch.OutOfMemoryError:
            reason = "the base model as it is did not fit beside the one in 4 bits"
    if reason is not None:
        report(f"training: what the adapter is worth beside the base model as it is served was not measured: {reason}")
        return Served(None, trained, ServedRecord(reason=reason))
    kept = sum(mine == theirs for mine, theirs in zip(golden, trained, strict=True))
    record = ServedRecord(
        validation_loss=loss, golden_kept=kept, reason="" if loss is not None else "no validation rows"
    )
    report(f"training: beside the base model as it is served: {record.in_words(_last_measured(log), len(golden))}")
    return Served(model, golden, record)


def _too_large(prepared: Prepared) -> str | None:
    """Why the model should not even be loaded: on a CPU nothing stops a process that takes too much but its end."""
    import torch

    if prepared.device == "cuda":
        torch.cuda.empty_cache()  # What training has left is counted as taken otherwise.
    data = prepared.data
    pass_ = memory_needed(prepared.model, data.objective, data.plan, data.engine, checkpointing=True)
    needed, free = network_of(prepared.model).bytes + pass_, memory_available(prepared.device)
    return None if needed <= free else f"it needs about {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free"


def _measured(
    prepared: Prepared, base: ResolvedModel, stage: Stage, begin: Callable[[Any], None]
) -> tuple[Any, float | None]:
    import torch

    data, device = prepared.data, prepared.device
    model, _ = load_for_training(
        base.path, base.name, stage.peft, dtype=prepared.precision.dtype, device=device, seed=stage.seed
    )
    forward, held_out = choose_forward(model, data.engine), data.held_out
    if isinstance(held_out, DirectPreference | KahnemanTversky):
        begin(model)
        held_out.refer(forward)
    with torch.no_grad():
        for theirs, ours in zip(trainable(model), trainable(prepared.model), strict=True):
            theirs.copy_(ours)
    if held_out is None:
        return model, None
    return model, mean_loss(forward, held_out, sorted_batches(held_out, TOKENS_PER_FORWARD[device]))[0]


def _last_measured(log: Sequence[StepLog]) -> float | None:
    return next((entry.validation_loss for entry in reversed(log) if entry.validation_loss is not None), None)
