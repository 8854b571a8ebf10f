"""The training loss: cross-entropy of the supervised tokens, and of nothing else.

The vocabulary is the widest layer of a small model, so its logits are computed where they count only. The tensors of a
batch belong in `collate.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_platform.training.collate import Batch
from finetune_platform.training.engine import Engine
from finetune_platform.training.packed_attention import attending
from finetune_platform.training.rows import TrainRow

if TYPE_CHECKING:
    import torch


def supervised_loss(model: Any, batch: Batch) -> "torch.Tensor":
    """Sum over supervised tokens of weight times cross-entropy in nats; computed in float32.

    Args:
        model: A causal language model of transformers inside a PEFT model.
        batch: From `Engine.batch`.

    Returns:
        A scalar with a gradient. Divide by the sum of weights for the mean.
    """
    from torch.nn.functional import cross_entropy

    base = model.get_base_model()
    decoder = base.get_decoder()
    with attending(decoder, batch.layout) as keywords:
        # No mask: with right padding causal attention alone keeps padding away, and only then are its kernels fast.
        hidden = decoder(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=None,
            use_cache=False,
            **keywords,
        ).last_hidden_state
    predicting = hidden.flatten(0, 1).index_select(0, batch.positions)
    logits = base.get_output_embeddings()(predicting).float()
    return (cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum()


def full_logits_loss(model: Any, row: TrainRow, device: "torch.device | str") -> "torch.Tensor":
    """The same sum for one row, unpadded, from the model's own logits: the reference that preflight compares with."""
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.tensor([row.input_ids], device=device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    weights = torch.tensor(row.weights[1:], dtype=torch.float32, device=device)
    return (cross_entropy(logits, ids[0, 1:], reduction="none") * weights).sum()


def mean_loss(
    model: Any,
    rows: Sequence[TrainRow],
    batches: Sequence[Sequence[int]],
    engine: Engine,
) -> float:
    """Mean loss over all supervised tokens of `rows` without a gradient, in nats a token."""
    import torch

    total = 0.0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            total += supervised_loss(model, engine.batch([rows[i] for i in batch])).item()
    model.train(was_training)
    return total / sum(weight for row in rows for weight in row.weights)
