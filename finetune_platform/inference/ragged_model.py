"""A base model with its adapters, run over a line of tokens of many rows: token ids in, logits out.

Which rows run when is the scheduler's (`continuous.py`).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from finetune_platform.inference.decoder import Decoder, check
from finetune_platform.inference.mixed_adapters import MixedAdapters
from finetune_platform.inference.precision import Dtype
from finetune_platform.inference.ragged_attention import Reading, Step
from finetune_platform.inference.row_cache import RowCache


class Work(NamedTuple):
    """The next tokens of one row.

    Attributes:
        adapter: None for the base model.
        slot: Where its keys and values are.
        past: Tokens that stand there already.
        tokens: New ones.
        wants_logits: Whether the last of them is to be continued.
    """

    adapter: str | None
    slot: int
    past: int
    tokens: Sequence[int]
    wants_logits: bool


class RaggedModel:
    """A causal language model of the transformers library, prepared for mixed rows.

    Args:
        folder: Local folder of the base model.
        dtype: Number format of weights and arithmetic.
        device: `cpu` or `cuda`.
        max_rows: Most rows in flight.
        max_tokens: Most tokens of all rows in flight.

    Raises:
        PermanentError: An architecture whose attention is not plain causal attention.
    """

    def __init__(self, folder: Path, dtype: Dtype, device: str, *, max_rows: int, max_tokens: int) -> None:
        logging.disable_progress_bar()
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        check(config, folder)
        base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
        base.to(device).eval()
        self.device = device
        self.context_length = int(config.max_position_embeddings)
        ends = base.generation_config.eos_token_id
        self.end_tokens: set[int] = set(ends if isinstance(ends, list) else [ends]) - {None}
        self.adapters = MixedAdapters()
        self._decoder = Decoder(base, self.adapters)
        self.cache = RowCache(
            config.num_hidden_layers,
            self._decoder.groups,
            self._decoder.head_dim,
            self._decoder.embedding,
            max_rows=max_rows,
            max_tokens=max_tokens,
        )

    def forward(self, work: Sequence[Work]) -> torch.Tensor:
        """Logits of the rows that want them, in the order of `work`: (rows, vocabulary).

        Args:
            work: At most one item a slot.
        """
        counts: Counter[str | None] = Counter()
        for item in work:
            counts[item.adapter] += len(item.tokens)
        place = {adapter: number for number, adapter in enumerate(self.adapters.arrange(counts))}
        line = sorted(range(len(work)), key=lambda i: place[work[i].adapter])
        starts: dict[int, int] = {}
        ids: list[int] = []
        for i in line:
            starts[i] = len(ids)
            ids.extend(work[i].tokens)
        step = self._step([work[i] for i in line])
        last = [starts[i] + len(item.tokens) - 1 for i, item in enumerate(work) if item.wants_logits]
        return self._decoder(self._tensor(ids), step, self._tensor(last))

    def _step(self, line: Sequence[Work]) -> Step:
        slots: list[int] = []
        positions: list[int] = []
        readings: list[Reading] = []
        writers: list[int] = []
        seen: dict[int, tuple[int, int]] = {}  # slot -> where its token stands, columns it sees
        for item in line:
            start, new = len(slots), len(item.tokens)
            slots.extend([item.slot] * new)
            positions.extend(range(item.past, item.past + new))
            if new == 1:
                writers.append(start)
                seen[item.slot] = (start, item.past + 1)
            else:
                readings.append(Reading(item.slot, start, start + new, item.past, self._causal(new, item.past)))
        tensors = (self._tensor(slots), self._tensor(positions))
        if not writers:
            return Step(self.cache.kv, *tensors, readings, None, None, None)
        # Every slot up to the last one is computed; one column lets the softmax of those that idle be finite.
        lengths = [seen.get(slot, (0, 1)) for slot in range(max(seen) + 1)]
        columns = torch.arange(max(length for _, length in lengths), device=self.device)
        hidden = columns >= self._tensor([length for _, length in lengths])[:, None]
        mask = self.cache.kv.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        mask = mask.repeat_interleave(self._decoder.groups, 0)[:, None]
        token_of_slot = self._tensor([token for token, _ in lengths])
        return Step(self.cache.kv, *tensors, readings, self._tensor(writers), token_of_slot, mask)

    def _causal(self, new: int, past: int) -> torch.Tensor | None:
        if past == 0:
            return None
        return self.cache.kv.new_full((new, past + new), float("-inf")).triu(past + 1)

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)
