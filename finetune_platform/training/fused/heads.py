"""How attention heads are divided, and the shapes that its products take them in.

A group's query heads follow one another, so their products need no copies of its keys and values.
"""

from typing import NamedTuple

import torch

from finetune_platform.training.packed_attention import Layout


class Heads(NamedTuple):
    """Query heads, key-value heads, the width of each, and the scaling of scores."""

    queries: int
    groups: int
    width: int
    scaling: float


def folded(values: torch.Tensor, groups: int) -> torch.Tensor:
    """(rows, tokens, heads, n) as (rows times groups, heads of a group times tokens, n)."""
    rows, tokens, _, last = values.shape
    return values.view(rows, tokens, groups, -1, last).permute(0, 2, 3, 1, 4).reshape(rows * groups, -1, last)


def unfolded(values: torch.Tensor, rows: int, tokens: int, groups: int) -> torch.Tensor:
    """The inverse of `folded`, with all rows' tokens under one another: (rows times tokens, heads, n)."""
    apart = values.view(rows, groups, -1, tokens, values.shape[-1])
    return apart.permute(0, 3, 1, 2, 4).reshape(rows * tokens, -1, values.shape[-1])


def gridded(values: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(rows, longest, …): each row's own tokens; what only fills the grid is another token's."""
    return values.index_select(0, layout.grid.flatten()).view(*layout.grid.shape, *values.shape[1:])
