"""The in-process engine: greedy answers to many conversations, with or without an adapter.

Batches are sorted by length, the prompt that all of them share is computed once, rows leave the batch when they
end. Which model and which prompts is the caller's decision; servers and clients have files of their own.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.inference.precision import choose_precision
from finetune_platform.inference.whole_models import holds_whole_model, require_room
from finetune_platform.progress import Report, Ticker

if TYPE_CHECKING:
    import torch

MIN_SHARED_TOKENS = 16
"""A shorter common prefix is not worth a forward pass of its own."""

BATCH_TOKENS = 65_536
"""Most prompt tokens (padding included) of the rows in flight: bounds the memory of keys and values."""

CHUNK_TOKENS = 2_048
"""Prompt tokens (padding included) computed at once: enough to keep the cores busy, little enough to pad little."""


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        text: The answer without special tokens.
        prompt_tokens: Tokens of the whole rendered conversation, shared prefix included.
        completion_tokens: Generated tokens, the end token included.
        latency_ms: From the start of the row's batch to its last token.
        finish_reason: `stop` at an end token, `length` at `max_new_tokens`.
        token_ids: What was generated, the end token included.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    finish_reason: Literal["stop", "length"]
    token_ids: tuple[int, ...] = ()


class Engine:
    """A base model in this process, and any number of its adapters; of whole models tuned from it one at a time.

    Args:
        base_model: Local folder of the base model.
        dtype: `bfloat16`, `float32`, or `auto`: what the hardware multiplies faster.
        device: `auto` takes the GPU where there is one.
    """

    def __init__(
        self, base_model: Path, dtype: Literal["auto", "bfloat16", "float32"] = "auto", device: str = "auto"
    ) -> None:
        import torch
        from transformers import AutoConfig
        from transformers.utils import logging

        from finetune_platform.inference import prefix_attention

        logging.disable_progress_bar()
        self.tokenizer = load_tokenizer(base_model)
        config = AutoConfig.from_pretrained(base_model, local_files_only=True)
        if config.model_type not in prefix_attention.MODEL_TYPES or getattr(config, "sliding_window", None):
            known = ", ".join(sorted(prefix_attention.MODEL_TYPES))
            raise PermanentError(
                f"{base_model}: the in-process engine does not know architecture {config.model_type}",
                f"use one of {known}",
            )
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.precision = choose_precision(dtype, self.device)
        self.base = self._loaded(base_model)
        self.adapted: Any = None
        self._whole: tuple[Path, Any] | None = None
        self._answering = self.base
        self.context_length: int = config.max_position_embeddings
        ends = self.base.generation_config.eos_token_id
        self.end_tokens = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def generate(
        self,
        conversations: Sequence[Sequence[dict[str, Any]]],
        *,
        adapter: Path | None,
        max_new_tokens: int,
        batch_size: int,
        report: Report,
        stage: str,
    ) -> list[Completion]:
        """Greedy answers, in the order of `conversations`.

        Args:
            conversations: Chat messages of each row, the last one the user's.
            adapter: A PEFT folder, or that of a whole model; None for the base model.
            max_new_tokens: Most tokens of an answer.
            batch_size: Most rows in flight.
            report: Told of progress.
            stage: What the progress line calls this work.

        Raises:
            BadInput: A conversation does not fit into the context.
            PermanentError: There is no memory for a whole model.
        """
        import torch

        if not conversations:
            return []
        prompts = [self.encode(c) for c in conversations]
        longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
        if len(prompts[longest]) + max_new_tokens > self.context_length:
            raise BadInput(
                f"conversation {longest}: {len(prompts[longest])} prompt tokens and max_new_tokens {max_new_tokens} "
                f"exceed the context of {self.context_length}",
                "lower evaluation.max_new_tokens or few_shot_examples, or curation.max_tokens",
            )
        shared = _shared_length(prompts)
        ticker = Ticker(report, stage, len(prompts), "rows")
        answers: list[Completion | None] = [None] * len(prompts)
        done = 0
        with torch.inference_mode(), self._with(adapter):
            prefix = self._prefix(prompts[0][:shared]) if shared else None
            for batch in _batches(prompts, shared, batch_size):
                for row, answer in self._batch([prompts[i] for i in batch], shared, prefix, max_new_tokens):
                    answers[batch[row]] = answer
                    done += 1
                    ticker.at(done)
        return [a for a in answers if a is not None]

    def encode(self, conversation: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of a conversation that waits for the assistant."""
        text = self.tokenizer.apply_chat_template(list(conversation), add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @contextmanager
    def _with(self, adapter: Path | None) -> Iterator[None]:
        """The model in the state that `adapter` names; loading one keeps those loaded before."""
        if adapter is not None and holds_whole_model(adapter):
            self._answering = self._whole_at(adapter)
            try:
                yield
            finally:
                self._answering = self.base
            return
        if adapter is not None:
            from peft import PeftModel

            name = adapter.resolve().as_posix().replace(".", "_")
            if self.adapted is None:
                self.adapted = PeftModel.from_pretrained(self.base, adapter, adapter_name=name)
            elif name not in self.adapted.peft_config:
                self.adapted.load_adapter(adapter, adapter_name=name)
            self.adapted.set_adapter(name)
            self.adapted.eval()
        with self.adapted.disable_adapter() if adapter is None and self.adapted is not None else nullcontext():
            yield

    def _whole_at(self, folder: Path) -> Any:
        """The whole model of a folder; the one before it makes room first."""
        if self._whole is None or self._whole[0] != folder:
            self._whole = None
            require_room(folder, self.precision.dtype, self.device)
            self._whole = (folder, self._loaded(folder))
        return self._whole[1]

    def _loaded(self, folder: Path) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        from finetune_platform.inference import prefix_attention

        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, self.precision.dtype),
            local_files_only=True,
            attn_implementation=prefix_attention.IMPLEMENTATION,
        )
        return model.to(self.device).eval()

    def _prefix(self, tokens: list[int]) -> Any:
        import torch

        cache = self._cache(None, len(tokens))
        ids = torch.tensor([tokens], device=self.device)
        self._forward(ids, torch.arange(len(tokens), device=self.device)[None], self._causal(ids.shape[1]), cache)
        return cache

    def _batch(
        self, prompts: list[list[int]], shared: int, prefix: Any, max_new_tokens: int
    ) -> Iterator[tuple[int, Completion]]:
        """Rows of one batch as they end: (index in the batch, answer)."""
        import torch

        started = time.perf_counter()
        own = [p[shared:] for p in prompts]
        width = len(own[0])  # the longest: `_batches` sorts
        pad = torch.tensor([width - len(o) for o in own], device=self.device)
        columns = torch.arange(width + max_new_tokens, device=self.device)
        padding = torch.zeros(len(own), 1, 1, len(columns), device=self.device)
        padding.masked_fill_(columns < pad[:, None, None, None], float("-inf"))
        cache = self._cache(prefix, width + max_new_tokens)
        logits = torch.cat([self._prefill(own, chunk, shared, prefix, cache, width) for chunk in _chunks(own)])
        rows = torch.arange(len(own), device=self.device)
        produced: list[list[int]] = [[] for _ in own]
        for step in range(max_new_tokens):
            tokens = logits.argmax(-1)
            alive = []
            for place, (row, token) in enumerate(zip(rows.tolist(), tokens.tolist(), strict=True)):
                produced[row].append(token)
                ended = token in self.end_tokens
                if ended or step == max_new_tokens - 1:
                    yield row, self._completion(prompts[row], produced[row], ended, started)
                else:
                    alive.append(place)
            if not alive:
                return
            if len(alive) < len(rows):
                kept = torch.tensor(alive, device=self.device)
                rows, tokens, padding = rows[kept], tokens[kept], padding[kept]
                cache.keep_rows(kept)
            column = width + step
            positions = (column - pad[rows] + shared)[:, None]
            logits = self._forward(tokens[:, None], positions, padding[..., : column + 1], cache)

    def _prefill(
        self, own: list[list[int]], chunk: range, shared: int, prefix: Any, cache: Any, width: int
    ) -> "torch.Tensor":
        """Puts the prompts of some rows into `cache`, each ending at column `width`; logits of their last tokens."""
        import torch

        longest = len(own[chunk.start])
        pad = torch.tensor([longest - len(own[i]) for i in chunk], device=self.device)
        # Left padding: every row's next token lands in the same column.
        ids = [[self.tokenizer.pad_token_id] * (longest - len(own[i])) + own[i] for i in chunk]
        columns = torch.arange(longest, device=self.device)
        bias = self._causal(longest).masked_fill(columns < pad[:, None, None, None], float("-inf"))
        # A padded query sees itself, so that its softmax is finite; no other row sees its result.
        bias.diagonal(dim1=-2, dim2=-1).zero_()
        part = self._cache(prefix, longest)
        positions = (columns - pad[:, None]).clamp(min=0) + shared
        logits = self._forward(torch.tensor(ids, device=self.device), positions, bias, part)
        cache.place(part, chunk.start, len(own), width - longest)
        return logits

    def _cache(self, prefix: Any, capacity: int) -> Any:
        from finetune_platform.inference.prefix_attention import PrefixCache

        if prefix is not None:
            return prefix.as_prefix_of(capacity)
        return PrefixCache(self.base.config.num_hidden_layers, capacity)

    def _forward(self, ids: "torch.Tensor", positions: "torch.Tensor", bias: "torch.Tensor", cache: Any) -> Any:
        """Logits of the last column, (rows, vocabulary); `cache` grows by `ids`."""
        out = self._answering(
            input_ids=ids,
            position_ids=positions,
            attention_mask=bias,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            prefix_cache=cache,
        )
        return out.logits[:, -1]

    def _causal(self, width: int) -> "torch.Tensor":
        import torch

        return torch.full((1, 1, width, width), float("-inf"), device=self.device).triu(1)

    def _completion(self, prompt: list[int], tokens: list[int], ended: bool, started: float) -> Completion:
        return Completion(
            text=self.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
            latency_ms=1000 * (time.perf_counter() - started),
            finish_reason="stop" if ended else "length",
            token_ids=tuple(tokens),
        )


def _shared_length(prompts: Sequence[list[int]]) -> int:
    """Leading tokens common to all prompts, one token of each left over; 0 where sharing is not worth it."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    limit = min(len(p) for p in prompts) - 1
    shared = next((i for i in range(limit) if first[i] != last[i]), limit)
    return shared if shared >= MIN_SHARED_TOKENS else 0


def _batches(prompts: Sequence[Sequence[int]], shared: int, batch_size: int) -> list[list[int]]:
    """Row numbers by length, at most `batch_size` rows and `BATCH_TOKENS` padded tokens a batch."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    batches: list[list[int]] = []
    for row in order:
        fits = batches and len(batches[-1]) < batch_size
        if fits and (len(batches[-1]) + 1) * (len(prompts[batches[-1][0]]) - shared) <= BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _chunks(own: Sequence[Sequence[int]]) -> list[range]:
    """Neighbours among rows sorted by length, longest first, at most `CHUNK_TOKENS` padded tokens (or one row) each."""
    chunks: list[range] = []
    start = 0
    while start < len(own):
        count = max(1, CHUNK_TOKENS // max(len(own[start]), 1))
        chunks.append(range(start, min(start + count, len(own))))
        start = chunks[-1].stop
    return chunks
