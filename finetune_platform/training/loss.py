"""The training loss: cross-entropy of the supervised tokens, and of nothing else.

The vocabulary is the widest layer of a small model, so its logits are computed where they count only. Which rows
share a batch belongs in `batches.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_platform.training.batches import Batch, collate
from finetune_platform.training.rows import TrainRow

if TYPE_CHECKING:
    import torch


def supervised_loss(model: Any, batch: Batch) -> "torch.Tensor":
    """Sum over supervised tokens of weight times cross-entropy in nats; computed in float32.

    Args:
        model: A causal language model of transformers inside a PEFT model.
        batch: From `collate`.

    Returns:
        A scalar with a gradient. Divide by the sum of weights for the mean.
    """
    from torch.nn.functional import cross_entropy

    base = model.get_base_model()
    # No mask: with right padding causal attention alone keeps padding away, and only then are its kernels fast.
    hidden = base.get_decoder()(input_ids=batch.input_ids, attention_mask=None, use_cache=False).last_hidden_state
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
    pad_token_id: int,
    device: "torch.device | str",
) -> float:
    """Mean loss over all supervised tokens of `rows` without a gradient, in nats a token."""
    import torch

    total = 0.0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            total += supervised_loss(model, collate([rows[i] for i in batch], pad_token_id, device)).item()
    model.train(was_training)
    return total / sum(weight for row in rows for weight in row.weights)
