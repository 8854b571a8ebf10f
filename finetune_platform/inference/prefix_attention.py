"""Attention of many rows to one shared prefix, whose keys and values exist once.

Rows of a narrow task open with the same long prompt. Its keys and values are computed at batch size one and
never expanded: scores against them are one matrix product over all rows, concatenated with each row's own scores
before the softmax, so the result is that of separate rows. Keys and values of key-value heads are not repeated
over their query groups either, and each row's own part lives in a buffer that grows in place.
"""

import torch
from transformers import AttentionInterface, Cache

IMPLEMENTATION = "finetune_prefix"
"""Name under which the attention is registered with transformers."""

MODEL_TYPES = frozenset({"llama", "qwen2", "qwen3", "mistral", "smollm3"})
"""Architectures whose attention is plain causal attention with rotary positions; others use transformers' own."""


class PrefixCache(Cache):
    """Keys and values of one batch: a shared prefix, and a buffer of each row's own.

    Args:
        layers: Number of attention layers.
        capacity: Columns of a row's own part (prompt and answer), padding included.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.prefix: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers
        self.own: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers
        self.capacity = capacity
        self.filled = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends (rows, heads, new, dim) in place; returns the filled part."""
        rows, _, new, _ = key_states.shape
        if self.own[layer_idx] is None:
            self.own[layer_idx] = self._buffers(key_states, rows)
        keys, values = self.own[layer_idx] or (key_states, value_states)
        end = self.filled + new
        keys[:, :, self.filled : end] = key_states
        values[:, :, self.filled : end] = value_states
        if layer_idx == len(self.own) - 1:
            self.filled = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.filled

    def place(self, part: "PrefixCache", first_row: int, rows: int, column: int) -> None:
        """Copies what `part` holds to rows from `first_row` and columns from `column` of a cache of `rows` rows."""
        for layer, kv in enumerate(part.own):
            if kv is None:
                continue
            if self.own[layer] is None:
                self.own[layer] = self._buffers(kv[0], rows)
            for whole, piece in zip(self.own[layer] or (), kv, strict=True):
                whole[first_row : first_row + len(piece), :, column : column + part.filled] = piece[:, :, : part.filled]
        self.filled = column + part.filled

    def _buffers(self, like: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        # Zeros: a masked column still enters the sums, times nothing, and nothing times NaN is NaN.
        keys = like.new_zeros(rows, like.shape[1], self.capacity, like.shape[3])
        return keys, torch.zeros_like(keys)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drops the rows that have finished."""
        self.own = [None if kv is None else (kv[0][rows], kv[1][rows]) for kv in self.own]

    def as_prefix_of(self, capacity: int) -> "PrefixCache":
        """A new cache whose shared prefix is what this one (of a single row) holds."""
        cache = PrefixCache(len(self.own), capacity)
        cache.prefix = [
            None if kv is None else (kv[0][0, :, : self.filled], kv[1][0, :, : self.filled]) for kv in self.own
        ]
        return cache


def prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    prefix_cache: PrefixCache | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Softmax attention over [shared prefix | own keys], grouped query heads.

    Args:
        module: The attention layer; its `layer_idx` selects the prefix.
        query: (rows, query heads, queries, dim).
        key: Own keys (rows, key-value heads, columns, dim); `value` likewise.
        attention_mask: Additive bias over own columns, (rows or 1, 1, queries, columns). The prefix is seen by all.
        scaling: Factor on the scores.
        dropout: Ignored: this path only generates.
        prefix_cache: Holds the prefix, if any.

    Returns:
        (rows, queries, query heads, dim), and no weights.
    """
    rows, heads, queries, dim = query.shape
    groups = key.shape[1]
    grouped = (query * scaling).reshape(rows, groups, -1, dim)  # (rows, groups, heads/groups * queries, dim)
    scores = torch.matmul(grouped, key.transpose(-1, -2)).view(rows, groups, heads // groups, queries, -1).float()
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None]
    prefix = prefix_cache.prefix[int(module.layer_idx)] if prefix_cache is not None else None
    if prefix is None:
        weights = scores.softmax(-1).to(value.dtype).view(rows, groups, -1, key.shape[2])
        out = torch.matmul(weights, value)
        return out.reshape(rows, heads, queries, dim).transpose(1, 2), None
    prefix_keys, prefix_values = prefix
    shared = grouped.transpose(0, 1).reshape(groups, -1, dim)  # every row's queries against one prefix
    length = prefix_keys.shape[1]
    prefix_scores = torch.matmul(shared, prefix_keys.transpose(-1, -2)).view(groups, rows, -1, queries, length)
    weights = torch.cat([prefix_scores.transpose(0, 1).float(), scores], dim=-1).softmax(-1).to(value.dtype)
    own = torch.matmul(weights[..., length:].reshape(rows, groups, -1, key.shape[2]), value)
    of_prefix = torch.matmul(weights[..., :length].transpose(0, 1).reshape(groups, -1, length), prefix_values)
    out = own + of_prefix.view(groups, rows, -1, dim).transpose(0, 1)
    return out.reshape(rows, heads, queries, dim).transpose(1, 2), None


AttentionInterface.register(IMPLEMENTATION, prefix_attention)
