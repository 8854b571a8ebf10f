"""What is proven before compute time is paid for: the run trains on the right tokens, and batches change nothing.

Whether the machine is large enough belongs in `capacity.py`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from finetune_platform.errors import PermanentError
from finetune_platform.training.forward import Forward
from finetune_platform.training.loss import full_logits_loss
from finetune_platform.training.model import trainable
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.quantised import computed_in_float32
from finetune_platform.training.rows import TrainRow
from finetune_platform.training.sharded import gathered_in_float32, is_sharded, part
from finetune_platform.training.whole_model import base_of, is_whole

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

SHOWN_ROWS = 3
COMPARED_ROWS = 4

TOLERANCE = 1e-3
"""Relative. In float32 rounding stays under 1e-5; a row that sees its padding or its neighbour is off by far more."""


def supervised_texts(rows: Sequence[TrainRow], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What the first rows are trained to say, end tokens included, one text a row.

    Raises:
        PermanentError: Nothing is supervised anywhere.
    """
    if not any(row.supervised for row in rows):
        raise PermanentError(
            f"none of {len(rows)} rows has a supervised token under this chat template: nothing would be learned",
            "give assistant messages a content and no weight of 0",
        )
    shown = [row for row in rows if row.supervised][:SHOWN_ROWS]
    return [tokenizer.decode([t for t, w in zip(row.input_ids, row.weights, strict=True) if w > 0]) for row in shown]


def compare_with_separate_rows(
    forward: Forward, rows: Sequence[TrainRow], processes: Processes = ALONE
) -> dict[str, float]:
    """Loss and gradient of a few short rows, once as one batch and once each row alone, in float32.

    The separate rows go through the model's own logits, so an architecture that does more after its last hidden
    state than one linear layer shows here too.

    Args:
        forward: The model and the way of the run through it.
        rows: To train on.
        processes: That make this call with the same rows.

    Returns:
        `loss_difference` and `gradient_difference`, relative.

    Raises:
        PermanentError: They differ by more than rounding.
    """
    compared, model = _short_rows_of_different_length(rows), forward.model
    device = forward.engine.device
    with _in_float32(model):
        together = forward.supervised_loss(compared)
        batched = _gradients(model, together)
        alone = sum(
            (full_logits_loss(model, row, device) for row in compared[1:]),
            full_logits_loss(model, compared[0], device),
        )
        separate = _gradients(model, alone)
    differences = {
        "loss_difference": abs(together.item() - alone.item()) / abs(alone.item()),
        "gradient_difference": _norm((a - b for a, b in zip(batched, separate, strict=True)), processes)
        / _norm(separate, processes),
    }
    if not max(differences.values()) <= TOLERANCE:
        raise PermanentError(
            f"a batch trains differently from its rows alone (relative differences: "
            f"loss {differences['loss_difference']:.1e}, gradient {differences['gradient_difference']:.1e})",
            "use a base model with plain causal attention and a linear output layer",
        )
    return differences


def _short_rows_of_different_length(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """Short, so that the comparison takes a second; of different length, so that there is padding to see."""
    by_length = {row.inputs: row for row in reversed(rows) if row.supervised}
    return [by_length[length] for length in sorted(by_length)[:COMPARED_ROWS]]


def _gradients(model: Any, loss: "torch.Tensor") -> "list[torch.Tensor]":
    """Of divided weights this process's parts; what all of them compute alike counts as often as there are some."""
    import torch

    if not (is_whole(model) and is_sharded(model)):
        gradients = torch.autograd.grad(loss, trainable(model), allow_unused=True)
        return [g for g in gradients if g is not None]
    loss.backward()
    trained = trainable(model)  # Not before: what is gathered for the pass has none of the gradients afterwards.
    found = [part(p.grad) for p in trained if p.grad is not None]
    for parameter in trained:
        parameter.grad = None
    return found


def _norm(parts: "Iterable[torch.Tensor]", processes: Processes) -> float:
    """Of all together; one after the other, for those of a whole model are as large as that."""
    squares = sum(float(one.norm()) ** 2 for one in parts)
    return math.sqrt(processes.sums(squares)[0] if processes.sharded else squares)


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """The model without dropout and with float32 weights, for a while; its own weights come back untouched."""
    kept = [(p, p.data) for p in model.parameters() if p.is_floating_point() and part(p) is p]
    was_training = model.training
    try:
        model.eval()
        for parameter, data in kept:
            parameter.data = data.float()
        with computed_in_float32(base_of(model)), gathered_in_float32(base_of(model)):
            yield
    finally:
        for parameter, data in kept:
            parameter.data = data
        model.train(was_training)
