"""How a model computes the batches of a run: by transformers' modules, or by fused layers over the same weights."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune_platform.training.collate import Batch
from finetune_platform.training.engine import Engine
from finetune_platform.training.loss import log_probs, supervised_loss
from finetune_platform.training.packed_attention import as_packed
from finetune_platform.training.quantised import in_4_bits
from finetune_platform.training.rows import TrainRow
from finetune_platform.training.sharded import is_sharded
from finetune_platform.training.whole_model import base_of, is_whole

if TYPE_CHECKING:
    import torch

    from finetune_platform.training.fused.decoder import FusedDecoder


class Forward(NamedTuple):
    """The trained model and the way of one run through it; `reason` is for a person."""

    model: Any
    engine: Engine
    fused: "FusedDecoder | None"
    reason: str

    def checkpointed(self) -> "Forward":
        """The same with layers that keep their input only and are computed again for the gradient."""
        if self.fused is None:
            base = base_of(self.model)
            again = partial(as_packed, base.get_decoder()) if self.engine.packs else nullcontext
            base.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": lambda: (nullcontext(), again())})
        else:
            self.fused.checkpointing = True
        return self._replace(reason=f"{self.reason}, computed twice")

    def log_probs(self, rows: Sequence[TrainRow]) -> "tuple[torch.Tensor, Batch]":
        """The logarithm of the probability of every supervised token of some rows, and the batch they stand in."""
        batch = self.engine.batch(rows)
        return log_probs(self.model, batch, self.fused), batch

    def supervised_loss(self, rows: Sequence[TrainRow]) -> "torch.Tensor":
        """As `loss.supervised_loss`."""
        return supervised_loss(self.model, self.engine.batch(rows), self.fused)


def choose_forward(model: Any, engine: Engine) -> Forward:
    """Fused layers wherever they know how.

    Args:
        model: In its final number format and place.
        engine: Of the run; fused layers take packed rows only.
    """
    from finetune_platform.training.fused.decoder import FusedDecoder, against_fusing

    if not engine.packs:
        against: str | None = "rows are padded"
    elif is_whole(model):
        # Fused layers have no gradient for the weights that an adapter leaves alone.
        against = "all weights are trained"
    elif is_sharded(base_of(model)):
        # Fused layers lay weights that are read together side by side, which is theirs for good.
        against = "the base model is divided among processes"
    elif in_4_bits(base_of(model)):
        against = "the base model is in 4 bits"
    else:
        against = against_fusing(model)
    if against:
        return Forward(model, engine, None, f"layers are transformers' own: {against}")
    return Forward(model, engine, FusedDecoder(model), "each layer is one operation, its gradient by hand")
