"""The training loss: cross-entropy of the supervised tokens, and of nothing else.

The vocabulary is the widest layer of a small model, so its logits are computed where they count only. The tensors of a
batch belong in `collate.py`.
"""

from typing import TYPE_CHECKING, Any

from finetune_platform.training.collate import Batch
from finetune_platform.training.packed_attention import attending
from finetune_platform.training.rows import TrainRow
from finetune_platform.training.sharded import with_root_gathered
from finetune_platform.training.whole_model import base_of

if TYPE_CHECKING:
    import torch

    from finetune_platform.training.fused.decoder import FusedDecoder

LOGITS_AT_ONCE = 512
"""Supervised tokens whose logits are in memory at a time; those of a trained output layer are computed again for the
gradient."""


def log_probs(model: Any, batch: Batch, fused: "FusedDecoder | None" = None) -> "torch.Tensor":
    """The logarithm of the probability of each supervised token, in float32.

    Args:
        model: A causal language model of transformers, alone or inside a PEFT model.
        batch: From `Engine.batch`; n supervised tokens.
        fused: Computes the model's hidden states in its place.

    Returns:
        (n,) in nats, with a gradient.
    """
    base = base_of(model)
    return with_root_gathered(base, lambda: _log_probs(base, batch, fused))


def _log_probs(base: Any, batch: Batch, fused: "FusedDecoder | None") -> "torch.Tensor":
    import torch
    from torch.utils.checkpoint import checkpoint

    if fused is not None and batch.layout is not None and batch.position_ids is not None:
        hidden = fused(batch.input_ids, batch.position_ids, batch.layout, batch.positions)
    else:
        hidden = _last_hidden(base.get_decoder(), batch).flatten(0, 1).index_select(0, batch.positions)
    head = base.get_output_embeddings()
    parts = list(zip(hidden.split(LOGITS_AT_ONCE), batch.targets.split(LOGITS_AT_ONCE), strict=True))
    if type(head) is torch.nn.Linear and not any(weight.requires_grad for weight in head.parameters()):
        from finetune_platform.training.frozen_head import FrozenHead

        return torch.cat([FrozenHead.apply(part, head.weight, head.bias, targets) for part, targets in parts])
    if len(parts) == 1:
        return _of_targets(head, hidden, batch.targets)
    return torch.cat([checkpoint(_of_targets, head, part, targets, use_reentrant=False) for part, targets in parts])


def _last_hidden(decoder: Any, batch: Batch) -> "torch.Tensor":
    with attending(decoder, batch.layout) as keywords:
        # No mask: with right padding causal attention alone keeps padding away, and only then are its kernels fast.
        hidden: torch.Tensor = decoder(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=None,
            use_cache=False,
            **keywords,
        ).last_hidden_state
    return hidden


def _of_targets(head: Any, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    from torch.nn.functional import cross_entropy

    return -cross_entropy(head(hidden).float(), targets, reduction="none")


def supervised_loss(model: Any, batch: Batch, fused: "FusedDecoder | None" = None) -> "torch.Tensor":
    """Sum over supervised tokens of weight times cross-entropy in nats; computed in float32.

    Args:
        model: As in `log_probs`.
        batch: From `Engine.batch`.
        fused: As in `log_probs`.

    Returns:
        A scalar with a gradient. Divide by the sum of weights for the mean.
    """
    return -(log_probs(model, batch, fused) * batch.weights).sum()


def full_logits_loss(model: Any, row: TrainRow, device: "torch.device | str") -> "torch.Tensor":
    """The same sum for one row, unpadded, from the model's own logits: the reference that preflight compares with."""
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.tensor([row.input_ids], device=device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    weights = torch.tensor(row.weights[1:], dtype=torch.float32, device=device)
    return (cross_entropy(logits, ids[0, 1:], reduction="none") * weights).sum()
