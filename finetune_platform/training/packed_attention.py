"""Attention over rows that lie one after the other behind the prompt they share, as one long sequence.

Every token of a row sees the shared tokens and its own row's earlier ones: what it would see alone, so loss and
gradient are those of separate rows. How a batch is laid out belongs in `collate.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

NAME = "finetune_packed"

SCORES_AT_MOST = 16_000_000
"""Of a layer that fused layers write out and keep, in formats of 16 bits: 32 MB."""

BLOCK = 128
"""FlexAttention's mask has blocks of so many tokens: a batch on a GPU is a whole number of them."""


class Layout(NamedTuple):
    """Where the rows of a packed sequence lie; R rows, of which the longest has L tokens of its own.

    Attributes:
        shared: Tokens at the beginning that every row sees.
        grid: (R, L) the place in the sequence of each row's tokens; short rows are filled up with place 0.
        cells: (tokens,) the flat place in `grid` of each token behind the shared ones.
        mask: (L, shared + L) True where a token of a row sees, by its place in it; None where causal attention does.
        blocks: FlexAttention's mask on a GPU, else None.
    """

    shared: int
    grid: "torch.Tensor"
    cells: "torch.Tensor"
    mask: "torch.Tensor | None"
    blocks: Any = None


def layout_of(shared: int, lengths: Sequence[int], total: int, device: "torch.device | str") -> Layout:
    """The layout of rows with so many tokens of their own behind `shared` ones, in a sequence of `total`."""
    import torch

    longest = max(lengths)
    places = torch.arange(longest)
    starts = shared + torch.tensor([0, *lengths[:-1]]).cumsum(0)
    real = places < torch.tensor(lengths)[:, None]
    grid = torch.where(real, starts[:, None] + places, 0)
    mask = None
    if shared:
        own = torch.ones(longest, longest, dtype=torch.bool).tril()
        mask = torch.cat([torch.ones(longest, shared, dtype=torch.bool), own], dim=1).to(device)
    blocks = _blocks(shared, lengths, total, device) if torch.device(device).type == "cuda" else None
    return Layout(shared, grid.to(device), real.flatten().nonzero().squeeze(1).to(device), mask, blocks)


def _blocks(shared: int, lengths: Sequence[int], total: int, device: "torch.device | str") -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(seeing(shared, lengths, total, device), None, None, total, total, device=device)


def seeing(
    shared: int, lengths: Sequence[int], total: int, device: "torch.device | str"
) -> "Callable[[Any, Any, Any, Any], Any]":
    """Whether a token sees another, as FlexAttention asks: by batch, head, place of the one and of the other."""
    import torch

    owners = [0] * shared + [number for number, length in enumerate(lengths, 1) for _ in range(length)]
    # What only fills the last block sees itself and is seen by nobody that counts.
    owner = torch.tensor(owners + [-1] * (total - len(owners)), device=device)

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (query >= key) & ((owner[key] == 0) | (owner[query] == owner[key]))

    return sees


def written_scores(shared: int, tokens: int, rows: int, longest: int, heads: int, width: int) -> int:
    """How many scores of a layer fused layers write out and keep; 0 where a kernel computes them again.

    Args:
        shared: Tokens that all rows see.
        tokens: All of them.
        rows: Behind the shared tokens.
        longest: Tokens of the longest row of its own.
        heads: Query heads.
        width: Bytes of a number.
    """
    scores = (shared * tokens + rows * longest**2) * heads
    return scores if width <= 2 and scores <= SCORES_AT_MOST else 0


@contextmanager
def attending(model: Any, layout: Layout | None) -> Iterator[dict[str, Any]]:
    """While it lasts the decoder attends by `layout`; gives the keywords for its call.

    Args:
        model: A decoder of transformers.
        layout: None leaves the model's own attention.
    """
    if layout is None:
        yield {}
        return
    with as_packed(model):
        yield {"layout": layout}


@contextmanager
def as_packed(model: Any) -> Iterator[None]:
    """While it lasts the layers of a decoder take packed rows; also those that are computed again for a gradient."""
    _register()
    kept = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = kept


def _register() -> None:
    from transformers import AttentionInterface

    if NAME not in AttentionInterface._global_mapping:
        AttentionInterface.register(NAME, packed_attention)


def packed_attention(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> "tuple[torch.Tensor, None]":
    """Attention as transformers calls it.

    Args:
        module: The attention layer.
        query: (1, heads, tokens, width).
        key: (1, key-value heads, tokens, width).
        value: Like `key`.
        attention_mask: None: `layout` says who sees what.
        layout: Of this batch.
        scaling: Of the scores.
        dropout: Of the weights, in training.

    Returns:
        (1, tokens, heads, width), and no weights.
    """
    if layout.blocks is not None:
        from transformers.integrations.flex_attention import flex_attention_forward

        return flex_attention_forward(module, query, key, value, layout.blocks, scaling=scaling, **kwargs)
    return _by_rows(query, key, value, layout, scaling, dropout), None


def _by_rows(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    layout: Layout,
    scaling: float | None,
    dropout: float,
) -> "torch.Tensor":
    """The shared tokens among themselves, and all rows at once behind copies of their keys and values."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attend

    groups = query.shape[1] // key.shape[1]
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (tokens, heads, width)
    rows, longest = layout.grid.shape
    flat = layout.grid.flatten()
    ours = [t.index_select(0, flat).view(rows, longest, *t.shape[1:]).transpose(1, 2) for t in (q, k, v)]
    q_rows, k_rows, v_rows = ours
    if layout.shared:
        before = [t[:, :, : layout.shared].expand(rows, -1, -1, -1) for t in (key, value)]
        k_rows, v_rows = (torch.cat([b, t], dim=2) for b, t in zip(before, (k_rows, v_rows), strict=True))
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": groups > 1}
    out = attend(q_rows, k_rows, v_rows, attn_mask=layout.mask, is_causal=layout.mask is None, **options)
    out = out.transpose(1, 2).flatten(0, 1).index_select(0, layout.cells)
    if layout.shared:
        q, k, v = (t[:, :, : layout.shared] for t in (query, key, value))
        shared = attend(q, k, v, is_causal=True, **options)
        out = torch.cat([shared[0].transpose(0, 1), out])
    return out.unsqueeze(0)
