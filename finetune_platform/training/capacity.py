"""Whether this machine can hold a training run, asked before it starts: memory and disk.

What the run then does belongs in `loop.py`; whether its data are right in `preflight.py`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune_platform.errors import PermanentError, StorageFailed
from finetune_platform.lake import Lake
from finetune_platform.training.batches import Step
from finetune_platform.training.collate import shared_tokens
from finetune_platform.training.engine import Engine
from finetune_platform.training.loss import LOGITS_AT_ONCE
from finetune_platform.training.model import trainable
from finetune_platform.training.objectives import Objective
from finetune_platform.training.packed_attention import written_scores
from finetune_platform.training.rows import TrainRow
from finetune_platform.training.sharded import gathered_bytes
from finetune_platform.training.whole_model import base_of, is_whole

TOKENS_PER_FORWARD = {"cpu": 2048, "cuda": 8192}
"""Most tokens that the rows of one forward pass have of their own: enough to keep the hardware busy, few enough for its
memory."""


class MemoryPlan(NamedTuple):
    """Bytes that a run takes beyond the loaded model, and whether it computes layers again to take no more."""

    needed: int
    checkpointing: bool


def plan_memory(
    model: Any,
    objective: Objective,
    plan: Sequence[Step],
    engine: Engine,
    available: int,
    *,
    by_row: bool = False,
    shards: int = 1,
) -> MemoryPlan:
    """Keeps what layers compute for the gradient where there is memory for it, else their inputs only.

    Args:
        model: As in `memory_needed`.
        objective: Likewise.
        plan: Likewise.
        engine: Likewise.
        available: Bytes.
        by_row: Likewise; what single rows' gradients are made of is always kept.
        shards: Likewise.
    """
    kept = memory_needed(model, objective, plan, engine, by_row=by_row, shards=shards)
    if by_row or kept <= available:
        return MemoryPlan(kept, False)
    return MemoryPlan(memory_needed(model, objective, plan, engine, checkpointing=True, shards=shards), True)


def memory_needed(
    model: Any,
    objective: Objective,
    plan: Sequence[Step],
    engine: Engine,
    *,
    checkpointing: bool = False,
    by_row: bool = False,
    shards: int = 1,
) -> int:
    """Bytes that the largest forward and backward pass takes beyond the loaded model, estimated from its shape.

    Each layer keeps about ten vectors of the hidden size and four of the intermediate size for a token, and fused
    layers in 16 bits the scores of their attention; logits exist three times in float32 (logits, softmax, gradient), of
    so many tokens at a time; a trainable weight has a gradient and what the optimizer keeps of it, both once more in
    float32 where its own format is shorter. An output layer that is trained has two more gradients for a moment, which
    are added up. Gradients of single rows take two more times 4 bytes for each of the rows. A process that has one of
    several parts of the model gathers layers; where all weights are trained it keeps what belongs to its part.

    Args:
        model: To be trained.
        objective: Whose units `plan` numbers.
        plan: Every step of the run.
        engine: Says how many tokens a pass computes.
        checkpointing: Layers keep their input only, and one at a time is computed again (Chen et al. 2016).
        by_row: Whether each row of a pass has a gradient of its own, as in private training.
        shards: Into how many parts the model is divided.
    """
    config = base_of(model).config.get_text_config()
    trained = trainable(model)
    width, weights = trained[0].element_size(), sum(p.numel() for p in trained)
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer, layers = (10 * config.hidden_size + 4 * intermediate) * width, config.num_hidden_layers
    per_token = layers * config.hidden_size * width + layer if checkpointing else layers * layer
    largest, kept_layers = 0, 1 if checkpointing else layers
    for batch in {batch for step in plan for batch in step.batches}:
        rows = objective.rows(batch)
        tokens = engine.tokens(rows)
        supervised = min(sum(row.supervised for row in rows), LOGITS_AT_ONCE)
        own = len(rows) * weights * 8 if by_row else 0
        scores = 0 if is_whole(model) else _scores_bytes(rows, tokens, engine, config, width)
        largest = max(largest, tokens * per_token + supervised * config.vocab_size * 12 + own + kept_layers * scores)
    in_float32 = 0 if width == 4 else 4  # of the gradient; the weights' own copy counts among what is kept
    output = base_of(model).get_output_embeddings().weight.numel() if is_whole(model) else 0
    own = weights * (width + in_float32 + _kept_bytes(width)) // (shards if is_whole(model) else 1)
    gathered = gathered_bytes(base_of(model)) if shards > 1 else 0
    return largest + own + 2 * output * width + gathered


def _scores_bytes(rows: Sequence[TrainRow], tokens: int, engine: Engine, config: Any, width: int) -> int:
    """What a fused layer keeps of its attention's scores."""
    if engine.device != "cpu" or not engine.packs:
        return 0
    shared = shared_tokens(rows)
    longest = max(max(row.inputs, 1) - shared for row in rows)
    return width * written_scores(shared, tokens, len(rows), longest, config.num_attention_heads, width)


def _kept_bytes(width: int) -> int:
    """What the optimizer keeps of a weight of so many bytes: two moments, and a float32 copy of a shorter one."""
    return 8 if width == 4 else 12


def require_memory(needed: int, available: int, place: str, *, whole: bool = False) -> None:
    """Refuses a run that would be killed for its memory; of a whole model, or of an adapter.

    Raises:
        PermanentError: With both figures.
    """
    if needed > available:
        adapter = "train an adapter instead of all weights (leave `peft: null` out), " if whole else ""
        raise PermanentError(
            f"{place}: training needs about {needed / 1e9:.1f} GB beyond the loaded model, "
            f"and {available / 1e9:.1f} GB are free",
            f"{adapter}lower training.stages[0].max_length or curation.max_tokens, free some memory, or use a smaller "
            "base model",
        )


def memory_available(device: str) -> int:
    """Bytes free on the device."""
    import psutil
    import torch

    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def require_disk(model: Any, work_dir: Path, lake: Lake, checkpoints: int) -> None:
    """Refuses a run whose checkpoints would not fit, where they are written and, if it is a folder, in the lake.

    Raises:
        StorageFailed: Naming the folder and the figures.
    """
    trained = trainable(model)
    weights, width = sum(p.numel() for p in trained), trained[0].element_size()
    one = weights * (width + _kept_bytes(width))
    # A checkpoint on its way, and the weights that are begun at or the result.
    places = {work_dir: one + weights * width}
    if "://" not in lake.url:
        # Besides those: the best one, the one that is being written, and the result.
        places[Path(lake.url)] = one * (checkpoints + 2) + weights * width
    for place, needed in places.items():
        standing = next(p for p in (place, *place.parents) if p.exists())
        free = shutil.disk_usage(standing).free
        if free < needed:
            raise StorageFailed(
                f"{place}: training keeps up to {needed / 1e6:.0f} MB there, and {free / 1e6:.0f} MB are free",
                "free some space there and run the same command again",
            )
