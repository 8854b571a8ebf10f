"""Attention over rows packed behind what they share, in three products: the shared tokens among themselves, all rows'
tokens over the shared ones, and each row over itself.

The last two are one softmax taken in two parts: each part's logarithm of its sum says how much it weighs in the whole
(as in FlashAttention's merging of blocks, Dao et al. 2022), and the backward pass of a part needs only the whole's.
So shared keys and values are neither copied for each row nor masked.
"""

from typing import NamedTuple

import torch

from finetune_platform.training.packed_attention import Layout

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Heads(NamedTuple):
    """Query heads, key-value heads, the width of each, and the scaling of scores."""

    queries: int
    groups: int
    width: int
    scaling: float


class Attended(NamedTuple):
    """What the backward pass needs: the output (tokens, queries, width) and the logarithm of each softmax's sum
    (tokens, queries)."""

    out: torch.Tensor
    logsumexp: torch.Tensor


def forward(qkv: torch.Tensor, layout: Layout, heads: Heads) -> Attended:
    """Attention of every token.

    Args:
        qkv: (tokens, queries + 2 groups, width): queries, keys, values, turned to their positions.
        layout: Who sees whom.
        heads: How they are divided.
    """
    shared, tokens = layout.shared, len(qkv)
    out = qkv.new_empty(tokens, heads.queries, heads.width)
    logs = qkv.new_empty(tokens, heads.queries, dtype=torch.promote_types(qkv.dtype, torch.float32))
    if shared:
        first, log = _attend(*_apart(qkv[None, :shared], heads), 0.0, True, scale=heads.scaling)
        out[:shared], logs[:shared] = first[0].transpose(0, 1), log[0].t()
    own, own_log = _attend(*_apart(_gridded(qkv, layout), heads), 0.0, True, scale=heads.scaling)
    own = own.transpose(1, 2).flatten(0, 1).index_select(0, layout.cells)
    own_log = own_log.transpose(1, 2).flatten(0, 1).index_select(0, layout.cells)
    if shared:
        behind, log = _attend(*_over_shared(qkv, shared, heads), 0.0, False, scale=heads.scaling)
        behind, log = _unfolded(behind, heads), _unfolded(log[..., None], heads)[..., 0]
        whole = torch.logaddexp(own_log, log)
        own = own * (own_log - whole).exp_()[..., None].to(own.dtype)
        own += behind * (log - whole).exp_()[..., None].to(own.dtype)
        own_log = whole
    out[shared:], logs[shared:] = own, own_log
    return Attended(out, logs)


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
    shared, groups, queries = layout.shared, heads.groups, heads.queries
    back = torch.empty_like(qkv)
    rows, longest = layout.grid.shape

    def gridded(values: torch.Tensor, filling: float) -> torch.Tensor:
        """(rows, queries, longest, n) of tokens behind the shared ones."""
        cells = values.new_full((rows * longest, *values.shape[1:]), filling)
        cells[layout.cells] = values
        return cells.view(rows, longest, *values.shape[1:]).transpose(1, 2)

    # Cells that only fill the grid must give nothing back: no gradient comes in, and beside an infinite sum no score
    # weighs anything, else a large one would be infinity times zero.
    q, k, v = _attend_back(
        gridded(gradient[shared:], 0.0),
        *_apart(_gridded(qkv, layout), heads),
        gridded(attended.out[shared:], 0.0),
        gridded(attended.logsumexp[shared:, :, None], torch.inf)[..., 0],
        0.0,
        True,
        scale=heads.scaling,
    )
    parts = torch.cat([q, _summed(k, groups), _summed(v, groups)], 1)
    back[shared:] = parts.transpose(1, 2).flatten(0, 1).index_select(0, layout.cells)
    if not shared:
        return back
    q, k, v = _attend_back(
        _folded(gradient[shared:], heads),
        *_over_shared(qkv, shared, heads),
        _folded(attended.out[shared:], heads),
        _folded(attended.logsumexp[shared:, :, None], heads)[..., 0],
        0.0,
        False,
        scale=heads.scaling,
    )
    back[shared:, :queries] += _unfolded(q, heads)
    from_rows = torch.cat([k, v], 1)[0].transpose(0, 1)
    q, k, v = _attend_back(
        gradient[None, :shared].transpose(1, 2),
        *_apart(qkv[None, :shared], heads),
        attended.out[None, :shared].transpose(1, 2),
        attended.logsumexp[None, :shared].transpose(1, 2),
        0.0,
        True,
        scale=heads.scaling,
    )
    back[:shared, :queries] = q[0].transpose(0, 1)
    back[:shared, queries:] = torch.cat([_summed(k, groups), _summed(v, groups)], 1)[0].transpose(0, 1) + from_rows
    return back


def _gridded(qkv: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(rows, longest, heads, width): each row's own tokens."""
    return qkv.index_select(0, layout.grid.flatten()).view(*layout.grid.shape, *qkv.shape[1:])


def _apart(qkv: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys, values as (rows, queries, tokens, width): keys and values once for each query head."""
    q, k, v = qkv.transpose(1, 2).split([heads.queries, heads.groups, heads.groups], 1)
    times = heads.queries // heads.groups
    return q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)


def _over_shared(qkv: torch.Tensor, shared: int, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of all rows over the shared keys: query heads of one group follow one another, so no key is copied."""
    keys, values = qkv[None, :shared, heads.queries :].transpose(1, 2).split(heads.groups, 1)
    return _folded(qkv[shared:, : heads.queries], heads), keys, values


def _folded(values: torch.Tensor, heads: Heads) -> torch.Tensor:
    """(tokens, queries, n) as (1, groups, queries of a group times tokens, n)."""
    tokens, _, last = values.shape
    return values.view(tokens, heads.groups, -1, last).permute(1, 2, 0, 3).reshape(1, heads.groups, -1, last)


def _unfolded(values: torch.Tensor, heads: Heads) -> torch.Tensor:
    """The inverse of `_folded`."""
    times = heads.queries // heads.groups
    return values[0].unflatten(1, (times, -1)).permute(2, 0, 1, 3).flatten(1, 2)


def _summed(of_copies: torch.Tensor, groups: int) -> torch.Tensor:
    """(rows, queries, tokens, width) summed over the query heads of each group."""
    return of_copies.unflatten(1, (groups, -1)).sum(2)
