"""The tensors of one forward pass: rows packed behind the prompt that they share, or padded.

Which rows share a pass belongs in `batches.py`; which of the two ways a run takes, in `engine.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.training.packed_attention import BLOCK, Layout, layout_of
from finetune_platform.training.rows import TrainRow

if TYPE_CHECKING:
    import torch


class Batch(NamedTuple):
    """One forward pass; n is the number of supervised tokens.

    Attributes:
        input_ids: (rows, width), right-padded; packed: (1, tokens).
        position_ids: Packed: (1, tokens) the place of each token in its own row; padded: None.
        layout: Packed: which token belongs to whom; padded: None. Attention is causal, so padding after a row
            changes nothing in it.
        positions: (n,) places in `input_ids`, flattened, whose output predicts a supervised token.
        targets: (n,) the supervised tokens.
        weights: (n,) how much each counts, float32.
        owners: (n,) which row each belongs to.
    """

    input_ids: "torch.Tensor"
    position_ids: "torch.Tensor | None"
    layout: Layout | None
    positions: "torch.Tensor"
    targets: "torch.Tensor"
    weights: "torch.Tensor"
    owners: "torch.Tensor"


def shared_tokens(rows: Sequence[TrainRow]) -> int:
    """How many tokens all rows begin with, before the last that each of them must read; 0 for one row."""
    if len(rows) < 2:
        return 0
    # Among sorted rows the first and the last differ earliest.
    least, most = min(row.input_ids for row in rows), max(row.input_ids for row in rows)
    return min(same_beginning(least, most), *(max(row.inputs, 1) - 1 for row in rows))


def same_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def packed(rows: Sequence[TrainRow], pad_token_id: int, device: "torch.device | str") -> Batch:
    """Rows one after the other behind what they share.

    A row ends before its last supervised token: what follows is predicted from nothing and predicts nothing.
    """
    import torch

    shared = shared_tokens(rows)
    lengths = [max(row.inputs, 1) - shared for row in rows]
    ids, places = list(rows[0].input_ids[:shared]), list(range(shared))
    positions, targets, weights, owners = [], [], [], []
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        start = len(ids) - shared
        for i, weight in _supervised(row):
            positions.append(i - 1 if i <= shared else start + i - 1)
            targets.append(row.input_ids[i])
            weights.append(weight)
            owners.append(number)
        ids += row.input_ids[shared : shared + length]
        places += range(shared, shared + length)
    if torch.device(device).type == "cuda":
        filling = -len(ids) % BLOCK
        ids += [pad_token_id] * filling
        places += [0] * filling
    return Batch(
        torch.tensor([ids], device=device),
        torch.tensor([places], device=device),
        layout_of(shared, lengths, len(ids), device),
        *_predicted(positions, targets, weights, owners, device),
    )


def padded(rows: Sequence[TrainRow], pad_token_id: int, device: "torch.device | str") -> Batch:
    """Rows under one another, filled up on the right to the longest; they end as in `packed`."""
    import torch

    width = max(max(row.inputs for row in rows), 1)
    ids, positions, targets, weights, owners = [], [], [], [], []
    for number, row in enumerate(rows):
        inputs = row.input_ids[: row.inputs]
        ids.append(inputs + [pad_token_id] * (width - len(inputs)))
        for i, weight in _supervised(row):
            positions.append(number * width + i - 1)
            targets.append(row.input_ids[i])
            weights.append(weight)
            owners.append(number)
    return Batch(torch.tensor(ids, device=device), None, None, *_predicted(positions, targets, weights, owners, device))


def _supervised(row: TrainRow) -> list[tuple[int, float]]:
    return [(i, weight) for i, weight in enumerate(row.weights) if i and weight > 0]


def _predicted(
    positions: list[int],
    targets: list[int],
    weights: list[float],
    owners: list[int],
    device: "torch.device | str",
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]":
    import torch

    return (
        torch.tensor(positions, dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
        torch.tensor(weights, dtype=torch.float32, device=device),
        torch.tensor(owners, dtype=torch.long, device=device),
    )
