"""How a run computes its batches: packed behind the shared prompt where model and data allow it, else padded.

Packed is never more work: each token is read once, and what rows share is read once for all of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from finetune_platform.training.batches import Shape
from finetune_platform.training.collate import Batch, packed, padded, shared_tokens
from finetune_platform.training.families import shapes_of
from finetune_platform.training.rows import TrainRow


class Engine(NamedTuple):
    """The way of one run, and the reason for it, for a person."""

    packs: bool
    reason: str
    pad_token_id: int
    device: str

    def batch(self, rows: Sequence[TrainRow]) -> Batch:
        """The tensors of one forward pass."""
        return (packed if self.packs else padded)(rows, self.pad_token_id, self.device)

    def tokens(self, rows: Sequence[TrainRow]) -> int:
        """How many tokens a forward pass of some rows computes, padding included."""
        inputs = [max(row.inputs, 1) for row in rows]
        if not self.packs:
            return len(rows) * max(inputs)
        shared = shared_tokens(rows)
        return shared + sum(inputs) - len(rows) * shared

    def shapes(self, rows: Sequence[TrainRow]) -> list[Shape]:
        """The rows as the plan takes them."""
        if not self.packs:
            return [Shape(row.inputs) for row in rows]
        return shapes_of(rows)


def choose_engine(
    base_model: Path, rows: Sequence[TrainRow], pad_token_id: int, device: str, *, private: bool = False
) -> Engine:
    """Packed, unless the model's attention is not plain or training is private.

    Args:
        base_model: Its folder.
        rows: To train on.
        pad_token_id: Fills what must be filled.
        device: `cuda` or `cpu`.
        private: Whether the gradient of each row is wanted.
    """
    alone = "private training asks for the gradient of each row" if private else None
    against = alone or _against_packing(base_model, max(row.inputs for row in rows))
    if against:
        return Engine(False, f"rows are padded: {against}", pad_token_id, device)
    return Engine(True, "rows are packed, and what they begin with is computed once a batch", pad_token_id, device)


def _against_packing(base_model: Path, longest: int) -> str | None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(base_model, local_files_only=True)
    text = config.get_text_config()
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if architecture is None or not architecture._supports_attention_backend:
        return f"{text.model_type} has an attention of its own"
    kinds = {kind for kind in getattr(text, "layer_types", None) or [] if kind != "full_attention"}
    if kinds - {"sliding_attention"}:
        return f"{text.model_type} has {', '.join(sorted(kinds))}"
    window = getattr(text, "sliding_window", None)
    if window is not None and window < longest:
        return f"{text.model_type} sees {window:,} tokens back and the longest row has {longest:,}"
    return None
