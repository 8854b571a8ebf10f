"""The attention of `attention.py` in three calls of torch's flash kernel: the shared tokens among themselves, all rows'
tokens over the shared ones, and each row over itself.

The last two are one softmax taken in two parts: each part's logarithm of its sum says how much it weighs in the whole
(as in FlashAttention's merging of blocks, Dao et al. 2022), and the backward pass of a part needs only the whole's.
So shared keys and values are neither copied for each row nor masked.
"""

import torch

from finetune_platform.training.fused.heads import Heads, folded, gridded, unfolded
from finetune_platform.training.packed_attention import Layout

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def forward(qkv: torch.Tensor, layout: Layout, heads: Heads) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output, (tokens, queries, width), and what `backward` needs: the logarithm of each softmax's sum, (tokens,
    queries)."""
    shared, tokens = layout.shared, len(qkv)
    out = qkv.new_empty(tokens, heads.queries, heads.width)
    logs = qkv.new_empty(tokens, heads.queries, dtype=torch.promote_types(qkv.dtype, torch.float32))
    if shared:
        first, log = _attend(*_apart(qkv[None, :shared], heads), 0.0, True, scale=heads.scaling)
        out[:shared], logs[:shared] = first[0].transpose(0, 1), log[0].t()
    own, own_log = _attend(*_apart(gridded(qkv, layout), heads), 0.0, True, scale=heads.scaling)
    own = own.transpose(1, 2).flatten(0, 1).index_select(0, layout.cells)
    own_log = own_log.transpose(1, 2).flatten(0, 1).index_select(0, layout.cells)
    if shared:
        behind, log = _attend(*_over_shared(qkv, shared, heads), 0.0, False, scale=heads.scaling)
        behind, log = _of_tokens(behind, heads), _of_tokens(log[..., None], heads)[..., 0]
        whole = torch.logaddexp(own_log, log)
        own = own * (own_log - whole).exp_()[..., None].to(own.dtype)
        own += behind * (log - whole).exp_()[..., None].to(own.dtype)
        own_log = whole
    out[shared:], logs[shared:] = own, own_log
    return out, [logs]


def backward(
    gradient: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    kept: list[torch.Tensor],
    layout: Layout,
    heads: Heads,
) -> torch.Tensor:
    """The gradient of `qkv`; `out` and `kept` are what `forward` gave."""
    shared, groups, queries = layout.shared, heads.groups, heads.queries
    (logs,) = kept
    back = torch.empty_like(qkv)
    rows, longest = layout.grid.shape

    def in_grid(values: torch.Tensor, filling: float) -> torch.Tensor:
        """(rows, queries, longest, n) of tokens behind the shared ones."""
        cells = values.new_full((rows * longest, *values.shape[1:]), filling)
        cells[layout.cells] = values
        return cells.view(rows, longest, *values.shape[1:]).transpose(1, 2)

    # Cells that only fill the grid must give nothing back: no gradient comes in, and beside an infinite sum no score
    # weighs anything, else a large one would be infinity times zero.
    q, k, v = _attend_back(
        in_grid(gradient[shared:], 0.0),
        *_apart(gridded(qkv, layout), heads),
        in_grid(out[shared:], 0.0),
        in_grid(logs[shared:, :, None], torch.inf)[..., 0],
        0.0,
        True,
        scale=heads.scaling,
    )
    parts = torch.cat([q, _summed(k, groups), _summed(v, groups)], 1)
    back[shared:] = parts.transpose(1, 2).flatten(0, 1).index_select(0, layout.cells)
    if not shared:
        return back
    q, k, v = _attend_back(
        _set(gradient[shared:], heads),
        *_over_shared(qkv, shared, heads),
        _set(out[shared:], heads),
        _set(logs[shared:, :, None], heads)[..., 0],
        0.0,
        False,
        scale=heads.scaling,
    )
    back[shared:, :queries] += _of_tokens(q, heads)
    from_rows = torch.cat([k, v], 1)[0].transpose(0, 1)
    q, k, v = _attend_back(
        gradient[None, :shared].transpose(1, 2),
        *_apart(qkv[None, :shared], heads),
        out[None, :shared].transpose(1, 2),
        logs[None, :shared].transpose(1, 2),
        0.0,
        True,
        scale=heads.scaling,
    )
    back[:shared, :queries] = q[0].transpose(0, 1)
    back[:shared, queries:] = torch.cat([_summed(k, groups), _summed(v, groups)], 1)[0].transpose(0, 1) + from_rows
    return back


def _apart(qkv: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys, values as (rows, queries, tokens, width): keys and values once for each query head."""
    q, k, v = qkv.transpose(1, 2).split([heads.queries, heads.groups, heads.groups], 1)
    times = heads.queries // heads.groups
    return q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)


def _over_shared(qkv: torch.Tensor, shared: int, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of all rows over the shared keys: query heads of one group follow one another, so no key is copied."""
    keys, values = qkv[None, :shared, heads.queries :].transpose(1, 2).split(heads.groups, 1)
    return _set(qkv[shared:, : heads.queries], heads), keys, values


def _set(values: torch.Tensor, heads: Heads) -> torch.Tensor:
    """(tokens, queries, n) as (1, groups, queries of a group times tokens, n)."""
    return folded(values[None], heads.groups)[None]


def _of_tokens(values: torch.Tensor, heads: Heads) -> torch.Tensor:
    """The inverse of `_set`."""
    tokens = values.shape[2] * heads.groups // heads.queries
    return unfolded(values[0], 1, tokens, heads.groups)


def _summed(of_copies: torch.Tensor, groups: int) -> torch.Tensor:
    """(rows, queries, tokens, width) summed over the query heads of each group."""
    return of_copies.unflatten(1, (groups, -1)).sum(2)
