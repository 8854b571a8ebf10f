"""Keys and values of prompt openings that many requests share, by adapter: what a system prompt costs, it costs once.

They depend on the adapter's weights, so no adapter ever sees another's. Openings are found by comparing each prompt
with the last few; nobody has to declare them.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

MIN_TOKENS = 8
"""A shorter opening, or one that is longer than a known one by less, is not worth keeping."""

COMPARED_PROMPTS = 8


class Prefix(NamedTuple):
    """Tokens, and their keys and values (layers, 2, heads, tokens, dim)."""

    tokens: tuple[int, ...]
    kv: torch.Tensor


class SharedPrefixes:
    """The openings in use; those of the adapters not asked for longest are dropped first.

    Args:
        max_tokens: Most tokens kept, of all openings together.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._kept: OrderedDict[str | None, list[Prefix]] = OrderedDict()
        # Of all adapters: where one task's prompts begin alike, they do so for each of its adapters.
        self._recent: deque[Sequence[int]] = deque(maxlen=COMPARED_PROMPTS)

    def find(self, adapter: str | None, prompt: Sequence[int]) -> torch.Tensor | None:
        """Keys and values of the longest known opening of `prompt`, of which one token at least is left over."""
        if adapter not in self._kept:
            return None
        self._kept.move_to_end(adapter)
        prefix, length = self._longest(adapter, prompt[:-1])
        return prefix.kv[:, :, :, :length] if length >= MIN_TOKENS else None

    def learn(self, adapter: str | None, prompt: Sequence[int], keys_values: Callable[[int], torch.Tensor]) -> None:
        """Keeps what `prompt` has in common with a recent one, if the adapter's openings do not cover it.

        Args:
            adapter: Whose keys and values they are.
            prompt: Tokens that have been computed.
            keys_values: Returns those of so many first tokens.
        """
        common = max((common_length(recent, prompt) for recent in self._recent), default=0)
        self._recent.append(prompt)
        known = self._longest(adapter, prompt)[1] if adapter in self._kept else 0
        if common > self.max_tokens or common - known < MIN_TOKENS:
            return
        opening = tuple(prompt[:common])
        others = [p for p in self._kept.get(adapter, ()) if opening[: len(p.tokens)] != p.tokens]
        self._kept[adapter] = [*others, Prefix(opening, keys_values(common))]
        self._kept.move_to_end(adapter)
        while self._size() > self.max_tokens:
            oldest = next(iter(self._kept))
            self._kept[oldest].pop(0)
            if not self._kept[oldest]:
                del self._kept[oldest]

    def forget(self, adapter: str) -> None:
        """Drops what belongs to an adapter."""
        self._kept.pop(adapter, None)

    def _longest(self, adapter: str | None, prompt: Sequence[int]) -> tuple[Prefix, int]:
        return max(
            ((prefix, common_length(prefix.tokens, prompt)) for prefix in self._kept[adapter]), key=lambda pair: pair[1]
        )

    def _size(self) -> int:
        return sum(len(prefix.tokens) for prefixes in self._kept.values() for prefix in prefixes)


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    limit = min(len(first), len(second))
    return next((i for i in range(limit) if first[i] != second[i]), limit)
