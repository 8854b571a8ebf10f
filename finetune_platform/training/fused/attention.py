"""Attention over rows packed behind what they share: written out for numbers of 16 bits, else by torch's flash kernel.

Both are the attention of `packed_attention.py`, and give a gradient by hand.
"""

from types import ModuleType
from typing import NamedTuple

import torch

from finetune_platform.training.fused import dense_attention, flash_attention
from finetune_platform.training.fused.heads import Heads
from finetune_platform.training.packed_attention import Layout, written_scores


class Attended(NamedTuple):
    """The output (tokens, queries, width), and what the gradient needs besides."""

    out: torch.Tensor
    kept: list[torch.Tensor]


def forward(qkv: torch.Tensor, layout: Layout, heads: Heads) -> Attended:
    """Attention of every token.

    Args:
        qkv: (tokens, queries + 2 groups, width): queries, keys, values, turned to their positions.
        layout: Who sees whom.
        heads: How they are divided.
    """
    return Attended(*_kind(qkv, layout, heads).forward(qkv, layout, heads))


def backward(
    gradient: torch.Tensor, qkv: torch.Tensor, attended: Attended, layout: Layout, heads: Heads
) -> torch.Tensor:
    """The gradient of `qkv`.

    Args:
        gradient: Of the output, (tokens, queries, width).
        qkv: As `forward` took it.
        attended: As `forward` gave it.
        layout: The same.
        heads: The same.
    """
    return _kind(qkv, layout, heads).backward(gradient, qkv, *attended, layout, heads)


def _kind(qkv: torch.Tensor, layout: Layout, heads: Heads) -> ModuleType:
    rows, longest = layout.grid.shape
    written = written_scores(layout.shared, len(qkv), rows, longest, heads.queries, qkv.element_size())
    return dense_attention if written else flash_attention
