"""The attention of `attention.py` with its scores written out, for numbers of 16 bits.

torch's flash kernel for CPUs multiplies small blocks, and computes the scores again for the gradient. Where products
of bfloat16 are native, the scores of all queries at once, kept until the gradient needs them, take a third of its time.
"""

import math
from typing import NamedTuple

import torch

from finetune_platform.training.fused.heads import Heads, folded, gridded, unfolded
from finetune_platform.training.packed_attention import Layout


class Asked(NamedTuple):
    """b sets of n queries, each set over its m keys.

    Attributes:
        queries: (b, n, width); the query heads of a group follow one another.
        keys: (b, m, width).
        values: (b, m, width).
    """

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


class Answered(NamedTuple):
    """What `Asked` leads to.

    Attributes:
        said: (b, n, width) the values' sum, each times its power.
        powers: (b, n, m) two to the power of a score less the largest of its query: the softmax but for a factor.
        largest: (b, n, 1) the largest score, in float32.
        total: (b, n, 1) the sum of the powers, in float32.
    """

    said: torch.Tensor
    powers: torch.Tensor
    largest: torch.Tensor
    total: torch.Tensor


def forward(qkv: torch.Tensor, layout: Layout, heads: Heads) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """As `attention.forward`.

    Returns:
        The output, (tokens, queries, width), and what `backward` needs: by what the powers are to be multiplied to be
        the softmax, (tokens, queries, 2), over the row's own tokens and over the shared ones; the powers over the
        row's own; and, where tokens are shared, those of all queries over them.
    """
    shared, groups = layout.shared, heads.groups
    rows, longest = layout.grid.shape
    out = qkv.new_empty(len(qkv), heads.queries, heads.width)
    factors = torch.empty(*out.shape[:2], 2, dtype=torch.promote_types(qkv.dtype, torch.float32))
    of_own, of_shared = factors.split(1, 2)
    own = _answered(_over_own(qkv, layout, heads), heads, causal=longest)
    said, largest, total = (
        unfolded(one, rows, longest, groups).index_select(0, layout.cells) for one in (own.said, own.largest, own.total)
    )
    if not shared:
        torch.mul(said, of_own.copy_(total.reciprocal_()), out=out)
        return out, [factors, own.powers]
    over = _answered(_over_shared(qkv, shared, heads), heads, causal=shared)
    before, largest_before, total_before = (
        unfolded(one, 1, len(qkv), groups) for one in (over.said, over.largest, over.total)
    )
    of_own[:shared] = 0.0
    torch.reciprocal(total_before[:shared], out=of_shared[:shared])
    # One softmax over both parts, whose powers are each below the part's own largest score.
    top = torch.maximum(largest, largest_before[shared:])
    by_own, by_shared = largest.sub_(top).exp2_(), largest_before[shared:].sub_(top).exp2_()
    whole = total.mul_(by_own).addcmul_(total_before[shared:], by_shared)
    torch.div(by_own, whole, out=of_own[shared:])
    torch.div(by_shared, whole, out=of_shared[shared:])
    torch.mul(before, of_shared, out=out)
    out[shared:] += said * of_own[shared:]
    return out, [factors, own.powers, over.powers]


def backward(
    gradient: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    kept: list[torch.Tensor],
    layout: Layout,
    heads: Heads,
) -> torch.Tensor:
    """As `attention.backward`; `out` and `kept` are what `forward` gave."""
    shared, groups = layout.shared, heads.groups
    rows, longest = layout.grid.shape
    factors, own, *over = kept
    of_own, of_shared = factors.split(1, 2)
    back = torch.empty_like(qkv)
    # The gradient of a score is its weight times what its value would add, less the mean of that over all weights:
    # the product of output and gradient.
    means = torch.linalg.vecdot(gradient.to(factors.dtype), out.to(factors.dtype))[..., None]

    def in_grid(values: torch.Tensor) -> torch.Tensor:
        # What only fills the grid gives nothing back.
        cells = values.new_zeros(rows * longest, *values.shape[1:])
        cells[layout.cells] = (values[shared:] * of_own[shared:]).to(values.dtype)
        return folded(cells.view(rows, longest, *values.shape[1:]), groups)

    told = _gradient(in_grid(gradient), in_grid(means), _over_own(qkv, layout, heads), own, heads)
    parts = torch.cat([unfolded(part, rows, longest, groups) for part in told], 1)
    torch.index_select(parts, 0, layout.cells, out=back[shared:])
    if over:
        given, meant = (folded((one * of_shared).to(one.dtype)[None], groups) for one in (gradient, means))
        told = _gradient(given, meant, _over_shared(qkv, shared, heads), over[0], heads)
        queries = unfolded(told.queries, 1, len(qkv), groups)
        back[:shared, : heads.queries] = queries[:shared]
        back[shared:, : heads.queries] += queries[shared:]
        back[:shared, heads.queries :] = torch.cat(told[1:]).transpose(0, 1)
    return back


def _over_shared(qkv: torch.Tensor, shared: int, heads: Heads) -> Asked:
    """The queries of all tokens over the shared tokens' keys and values."""
    keys, values = qkv[None, :shared, heads.queries :].split(heads.groups, 2)
    return Asked(*(folded(part, heads.groups) for part in (qkv[None, :, : heads.queries], keys, values)))


def _over_own(qkv: torch.Tensor, layout: Layout, heads: Heads) -> Asked:
    """The queries of each row over its own keys and values."""
    parts = gridded(qkv, layout).split([heads.queries, heads.groups, heads.groups], 2)
    return Asked(*(folded(part, heads.groups) for part in parts))


def _answered(asked: Asked, heads: Heads, *, causal: int) -> Answered:
    """Of each head the first `causal` queries are those of the keys' own tokens, and see no later one.

    The scores are written twice: once for the largest, once less the largest, which one more column takes from the
    products where they are still summed up in float32. Scores of 16 bits rounded as they are teach worse; so those near
    the largest, which count, are rounded least.
    """
    factor = heads.scaling / math.log(2)
    exact = torch.promote_types(asked.queries.dtype, torch.float32)  # In 16 bits what goes over rows is slow, too.
    scores = _times(asked.queries, asked.keys.transpose(1, 2), factor)
    of_heads = scores.view(len(scores), heads.queries // heads.groups, -1, causal)[:, :, :causal]
    unseen = scores.new_full((causal, causal), -torch.inf).triu_(1)
    of_heads += unseen
    largest = scores.to(exact).amax(-1, keepdim=True)
    # Rounded, its reciprocal is the factor of all scores of a query alike.
    one = scores.new_tensor(1 / factor)
    queries = torch.cat([asked.queries, -largest.to(scores.dtype)], -1)
    keys = torch.cat([asked.keys, one.expand(*asked.keys.shape[:2], 1)], -1)
    _times(queries, keys.transpose(1, 2), factor, out=scores)
    of_heads += unseen
    powers = scores.to(exact).exp2_()
    total = powers.sum(-1, keepdim=True)
    scores.copy_(powers)
    return Answered(torch.bmm(scores, asked.values), scores, largest.mul_(one.item() * factor), total)


def _gradient(gradient: torch.Tensor, means: torch.Tensor, asked: Asked, powers: torch.Tensor, heads: Heads) -> Asked:
    """The gradient of queries, keys and values.

    Args:
        gradient: Of the output, (b, n, width), times the factor of the powers.
        means: Its product with the output, (b, n, 1), times that factor.
        asked: As it was.
        powers: As they were.
        heads: Whose scaling counts.
    """
    # The means as columns of the product, where they are taken off before anything is rounded.
    coarse = means.to(gradient.dtype)
    fine = (means - coarse).to(gradient.dtype)
    values = torch.cat([asked.values, asked.values.new_ones(1, 1, 1).expand(*asked.values.shape[:2], 2)], -1)
    slopes = torch.bmm(torch.cat([gradient, -coarse, -fine], -1), values.transpose(1, 2)).mul_(powers)
    return Asked(
        _times(slopes, asked.keys, heads.scaling),
        _times(slopes.transpose(1, 2), asked.queries, heads.scaling),
        torch.bmm(powers.transpose(1, 2), gradient),
    )


def _times(a: torch.Tensor, b: torch.Tensor, factor: float, out: torch.Tensor | None = None) -> torch.Tensor:
    return torch.baddbmm(a.new_zeros(()), a, b, beta=0, alpha=factor, out=out)
