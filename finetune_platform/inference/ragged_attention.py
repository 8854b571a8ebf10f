"""Attention of a batch without padding: all tokens of all rows in one line, each row with its own keys and values.

A step mixes rows that read their prompt (many tokens) with rows that write their answer (one token). Which rows
these are is the scheduler's; the keys and values stand in `row_cache.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention


class Reading(NamedTuple):
    """Tokens `start` to `stop` of the line: the next ones of a row's prompt, after `past` in its slot.

    `mask` is the additive bias (tokens, past + tokens) of tokens that follow others.
    """

    slot: int
    start: int
    stop: int
    past: int
    mask: torch.Tensor | None


class Step(NamedTuple):
    """One forward pass over a line of tokens.

    Attributes:
        kv: Keys and values, (layers, 2, slots, heads, columns, dim).
        slots: Slot of each token, (tokens,).
        positions: Column of each token in its slot, (tokens,).
        readings: Rows that read several tokens.
        writers: Where in the line the rows with one token stand, (rows,); None: there are none.
        token_of_slot: For each slot in use, where its row's single token stands (any, for other slots), (slots,).
        mask: Additive, (slots * heads, 1, columns): what each key-value head of a row with one token sees.
    """

    kv: torch.Tensor
    slots: torch.Tensor
    positions: torch.Tensor
    readings: Sequence[Reading]
    writers: torch.Tensor | None
    token_of_slot: torch.Tensor | None
    mask: torch.Tensor | None


def attend(
    layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, step: Step, scaling: float
) -> torch.Tensor:
    """Causal attention within each row; the line's keys and values are stored in their slots first.

    Args:
        layer: Selects the keys and values.
        query: (tokens, query heads, dim).
        key: (tokens, key-value heads, dim); `value` likewise.
        step: The line's rows.
        scaling: Factor on the scores.

    Returns:
        (tokens, query heads * dim).
    """
    keys, values = step.kv[layer]
    keys[step.slots, :, step.positions] = key
    values[step.slots, :, step.positions] = value
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for slot, start, stop, past, mask in step.readings:
        end = past + stop - start
        attended = scaled_dot_product_attention(
            query[start:stop].transpose(0, 1)[None],
            keys[slot : slot + 1, :, :end],
            values[slot : slot + 1, :, :end],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=True,
        )
        out[start:stop] = attended[0].transpose(0, 1)
    if step.writers is not None and step.token_of_slot is not None and step.mask is not None:
        # One token each: query heads that share a key-value head are one product with what it holds. On a CPU batched
        # products take two thirds of the time of `scaled_dot_product_attention`.
        heads, columns = step.mask.shape[0], step.mask.shape[2]
        held = step.kv[layer].flatten(1, 2)[:, :heads, :columns]
        grouped = query.index_select(0, step.token_of_slot)
        scores = torch.baddbmm(
            step.mask, grouped.view(heads, -1, grouped.shape[-1]), held[0].transpose(1, 2), alpha=scaling
        )
        attended = torch.bmm(scores.softmax(-1), held[1]).view_as(grouped)
        out[step.writers] = attended.index_select(0, step.slots[step.writers])
    return out.view(len(out), -1)
