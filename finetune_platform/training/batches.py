"""Which rows train together, in which order: fixed by the row lengths, the options and a seed before training starts.

A plan is a list of steps, so the position in the data is the number of steps done. What is computed from a batch
belongs in `loss.py`.
"""

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.training.rows import TrainRow

if TYPE_CHECKING:
    import torch


class Step(NamedTuple):
    """One optimizer step.

    Attributes:
        epoch: Passes over the data when it is done, 0.5 in the middle of the first.
        batches: Row numbers of each forward pass; their gradients add up.
    """

    epoch: float
    batches: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> int:
        return sum(len(batch) for batch in self.batches)


class Batch(NamedTuple):
    """The tensors of one forward pass; n is the number of supervised tokens.

    Attributes:
        input_ids: (rows, width), right-padded. Attention is causal, so padding after a row changes nothing in it.
        positions: (n,) places in `input_ids`, flattened, whose output predicts a supervised token.
        targets: (n,) the supervised tokens.
        weights: (n,) how much each counts, float32.
    """

    input_ids: "torch.Tensor"
    positions: "torch.Tensor"
    targets: "torch.Tensor"
    weights: "torch.Tensor"


def plan_steps(
    lengths: Sequence[int],
    *,
    epochs: float,
    batch_size: int,
    gradient_accumulation_steps: int,
    tokens_per_forward: int,
    seed: int,
) -> list[Step]:
    """Every step of a training run.

    Rows of about the same length share a batch, so that little is padded; the order of the batches is shuffled anew
    in every epoch, and so is who sits beside whom among rows of one length.

    Args:
        lengths: Tokens of each row.
        epochs: Passes over the data; a fraction ends within a pass.
        batch_size: Rows of a batch.
        gradient_accumulation_steps: Batches of a step.
        tokens_per_forward: Most tokens, padding included, of one forward pass: a larger batch is computed in parts.
        seed: Of the shuffles.
    """
    batches_an_epoch = math.ceil(len(lengths) / batch_size)
    steps_an_epoch = math.ceil(batches_an_epoch / gradient_accumulation_steps)
    total = max(1, math.ceil(epochs * steps_an_epoch - 1e-9)) if lengths else 0
    steps: list[Step] = []
    for epoch in range(math.ceil(total / steps_an_epoch) if total else 0):
        batches = _epoch(lengths, batch_size, random.Random(f"{seed}/{epoch}"))
        for start in range(0, len(batches), gradient_accumulation_steps):
            group = batches[start : start + gradient_accumulation_steps]
            parts = [part for batch in group for part in split_by_tokens(batch, lengths, tokens_per_forward)]
            steps.append(Step((len(steps) + 1) / steps_an_epoch, tuple(parts)))
    return steps[:total]


def split_by_tokens(
    rows: Sequence[int], lengths: Sequence[int], tokens_per_forward: int, batch_size: int | None = None
) -> list[tuple[int, ...]]:
    """Consecutive parts of `rows`, each of at most so many tokens with padding (a longer row stands alone)."""
    parts: list[list[int]] = []
    width = 0
    for row in rows:
        width = max(width, lengths[row])
        full = parts and ((len(parts[-1]) + 1) * width > tokens_per_forward or len(parts[-1]) == batch_size)
        if full or not parts:
            parts.append([])
            width = lengths[row]
        parts[-1].append(row)
    return [tuple(part) for part in parts]


def collate(rows: Sequence[TrainRow], pad_token_id: int, device: "torch.device | str") -> Batch:
    """The tensors of one forward pass over `rows`.

    A row ends before its last supervised token: what follows is predicted from nothing and predicts nothing.
    """
    import torch

    width = max(max(row.inputs for row in rows), 1)
    ids, positions, targets, weights = [], [], [], []
    for number, row in enumerate(rows):
        inputs = row.input_ids[: row.inputs]
        ids.append(inputs + [pad_token_id] * (width - len(inputs)))
        for i, weight in enumerate(row.weights[1:], start=1):
            if weight > 0:
                positions.append(number * width + i - 1)
                targets.append(row.input_ids[i])
                weights.append(weight)
    return Batch(
        torch.tensor(ids, device=device),
        torch.tensor(positions, dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
        torch.tensor(weights, dtype=torch.float32, device=device),
    )


def _epoch(lengths: Sequence[int], batch_size: int, shuffler: random.Random) -> list[list[int]]:
    order = list(range(len(lengths)))
    shuffler.shuffle(order)
    order.sort(key=lambda row: lengths[row])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    shuffler.shuffle(batches)
    return batches
