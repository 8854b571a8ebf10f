"""Keys and values of the rows in flight: one growing tensor, a slot a row. Shared prefixes have a file of their own.

A slot's columns are a row's tokens from its first; what lies behind a row's end is never looked at.
"""

import heapq

import torch

FIRST_COLUMNS = 256


class RowCache:
    """Slots for the keys and values of rows.

    Args:
        layers: Attention layers.
        heads: Key-value heads.
        dim: Of a head.
        like: Has the model's number format and device.
        max_rows: Most slots.
        max_tokens: Most slots times columns, which bounds the memory; one row alone may have more.
    """

    def __init__(
        self, layers: int, heads: int, dim: int, like: torch.Tensor, *, max_rows: int, max_tokens: int
    ) -> None:
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.kv = like.new_zeros(layers, 2, 0, heads, 0, dim)
        self.columns: dict[int, int] = {}
        self._free: list[int] = list(range(max_rows))

    def acquire(self, columns: int) -> int | None:
        """A slot for a row of at most `columns` tokens; None: the rows in flight leave no room.

        Args:
            columns: Prompt and answer, in tokens.
        """
        if not self._free:
            return None
        slot = self._free[0]
        rows = max([slot, *self.columns]) + 1
        needed = max([columns, *self.columns.values()])
        if self.columns and rows * needed > self.max_tokens:
            return None
        heapq.heappop(self._free)
        self.columns[slot] = columns
        self._fit(rows, needed)
        return slot

    def release(self, slot: int) -> None:
        """Gives a slot back."""
        del self.columns[slot]
        heapq.heappush(self._free, slot)

    def wipe(self, slot: int) -> None:
        """Makes a slot's columns finite numbers again: a masked one still enters the sums of whoever comes next."""
        self.kv[:, :, slot].zero_()

    def copy_of(self, slot: int, length: int) -> torch.Tensor:
        """Keys and values of a row's first tokens: (layers, 2, heads, length, dim)."""
        return self.kv[:, :, slot, :, :length].clone()

    def start_with(self, slot: int, prefix: torch.Tensor) -> None:
        """Fills a row's first columns."""
        self.kv[:, :, slot, :, : prefix.shape[3]] = prefix

    def _fit(self, rows: int, columns: int) -> None:
        """Grows for `rows` and `columns`, in powers of two; shrinks where one long row has left a wide tensor."""
        held_rows, held = self.kv.shape[2], self.kv.shape[4]
        wide = FIRST_COLUMNS
        while wide < columns:
            wide *= 2
        wide = min(wide, max(columns, self.max_tokens))
        tall = min(self.max_rows, 1 << (rows - 1).bit_length())
        # A tensor wider than needed is kept unless it holds more than the memory allows.
        fits = held_rows >= rows and held >= columns and held_rows * held <= max(self.max_tokens, tall * wide)
        if fits:
            return
        if tall * wide > self.max_tokens:
            tall, wide = rows, max(columns, min(wide, self.max_tokens // rows))
        layers, _, _, heads, _, dim = self.kv.shape
        # Zeros: a masked column still enters the sums, times nothing, and nothing times NaN is NaN.
        grown = self.kv.new_zeros(layers, 2, tall, heads, wide, dim)
        both_rows, both = min(held_rows, tall), min(held, wide)
        grown[:, :, :both_rows, :, :both] = self.kv[:, :, :both_rows, :, :both]
        self.kv = grown
