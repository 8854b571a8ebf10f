"""How weights move: AdamW on float32 weights, and the learning rate of each step.

What the gradient is belongs in `loss.py`; when a step is taken, in `loop.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from finetune_platform.task_training import Stage
from finetune_platform.training.model import trainable
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.sharded import part, part_like, together
from finetune_platform.training.whole_model import vectors

if TYPE_CHECKING:
    import torch


def learning_rates(
    steps: int, peak: float, schedule: Literal["linear", "cosine", "constant"], warmup_ratio: float
) -> list[float]:
    """The learning rate of every step.

    It rises linearly over the first `warmup_ratio` of the steps (the first one already moves), then falls to 0 along
    a line or half a cosine, or stays.

    Args:
        steps: Optimizer steps of the whole run.
        peak: The highest rate.
        schedule: Its shape after the warmup, by transformers' names.
        warmup_ratio: Share of the steps, rounded up.
    """
    warmup = math.ceil(steps * warmup_ratio)
    rates = []
    for step in range(steps):
        progress = (step - warmup) / max(1, steps - warmup)
        fall = {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "constant": 1.0}[schedule]
        rates.append(peak * ((step + 1) / (warmup + 1) if step < warmup else fall))
    return rates


class AdapterOptimizer:
    """AdamW over the trainable weights.

    bfloat16 has eight bits of precision: near the end of a schedule a step is smaller than the last of them and would
    be lost. So weights in a shorter format are copies of float32 ones, which is what moves.

    Args:
        parameters: The trainable weights.
        weight_decay: Decoupled, as in AdamW.
        spared: Those of them that do not decay.
        dithered: Whether bfloat16 copies are rounded up or down by chance, in proportion to what is between. Weights
            that begin as bfloat16 stand in the middle of what rounds to them: else most would not be seen to move
            until they have gone half of their last bit.
        processes: That train together. Of weights that are divided among them each moves its parts, by the norm of all.
    """

    def __init__(
        self,
        parameters: Sequence["torch.nn.Parameter"],
        weight_decay: float,
        *,
        spared: Sequence["torch.nn.Parameter"] = (),
        dithered: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        import torch

        self.parameters = list(parameters)
        self.dithered = dithered
        self._processes, self._parts = processes, [part(p) for p in self.parameters]
        self.divided = any(own is not p for own, p in zip(self._parts, self.parameters, strict=True))
        self.copied = any(p.dtype != torch.float32 for p in self.parameters)
        self.weights = [p.detach().float().clone() for p in self._parts] if self.copied else self._parts
        ids = {id(p) for p in spared}
        decaying, others = (
            [w for w, p in zip(self.weights, self.parameters, strict=True) if (id(p) in ids) == kept]
            for kept in (False, True)
        )
        groups = [{"params": decaying}, *([{"params": others, "weight_decay": 0.0}] if others else [])]
        self.adamw = torch.optim.AdamW(groups, lr=0.0, weight_decay=weight_decay, fused=True)

    def step(self, learning_rate: float, max_grad_norm: float) -> float:
        """Moves the weights along the gradients of the parameters, which are then dropped.

        Returns:
            The norm of the gradient before clipping. Where it is not finite, nothing has moved.
        """
        if self.copied or self.divided:
            for weight, parameter in zip(self.weights, self.parameters, strict=True):
                weight.grad = None if parameter.grad is None else part(parameter.grad).float()
        norm = self._clip(max_grad_norm)
        if math.isfinite(norm):
            for group in self.adamw.param_groups:
                group["lr"] = learning_rate
            self.adamw.step()
            if self.copied:
                self._copy()
        self.drop_gradients()
        return norm

    def _clip(self, max_grad_norm: float) -> float:
        from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

        if not self.divided:
            return float(clip_grad_norm_(self.weights, max_grad_norm))
        own = get_total_norm([w.grad for w in self.weights if w.grad is not None])
        norm = math.sqrt(self._processes.sums(float(own) ** 2)[0])
        clip_grads_with_norm_(self.weights, max_grad_norm, own.new_tensor(norm))
        return norm

    def drop_gradients(self) -> None:
        for tensor in (*self.parameters, *self.weights):
            tensor.grad = None

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, as tensors and plain values.

        Of divided weights all processes must ask, and the first is given it, whole and on the CPU.
        """
        weights = [w.detach() for w in self.weights] if self.copied else []
        if self.divided:
            weights = [together(w, p) for w, p in zip(weights, self.parameters, strict=False)]
        return {"adamw": self._changed(self.adamw.state_dict(), together), "weights": weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state` gave, on this or another device; the parameters are restored before."""
        import torch

        self.adamw.load_state_dict(self._changed(state["adamw"], lambda saved, p: part_like(saved, p).clone()))
        with torch.no_grad():
            exact = [part_like(*pair) for pair in zip(state["weights"], self.parameters, strict=False)] or self._parts
            for weight, saved in zip(self.weights, exact, strict=True):
                weight.copy_(saved)
        if self.copied:
            self._copy()

    def _changed(
        self, state: dict[str, Any], change: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
    ) -> dict[str, Any]:
        """AdamW's state, of divided weights with what is as large as those changed; `change` is told of which."""
        if not self.divided:
            return state
        whose = {id(w): p for w, p in zip(self.weights, self.parameters, strict=True)}
        order = [whose[id(w)] for group in self.adamw.param_groups for w in group["params"]]
        moments = {
            number: {name: kept if name == "step" else change(kept, order[number]) for name, kept in of_one.items()}
            for number, of_one in state["state"].items()
        }
        return {**state, "state": moments}

    def _copy(self) -> None:
        """Gives the parameters what the weights are now."""
        import torch

        with torch.no_grad():
            if not self.dithered:
                torch._foreach_copy_(self._parts, self.weights)
                return
            # The number of steps decides the chance: after a resume, and at every process, it is the same.
            steps = next((int(state["step"]) for state in self.adamw.state.values()), 0)
            generator = torch.Generator(self.weights[0].device).manual_seed(steps)
            for weight, own in zip(self.weights, self._parts, strict=True):
                own.copy_(_dithered(weight, generator))


def _dithered(weight: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """float32 numbers of which the last 16 bits are 0, on average the given ones (stochastic rounding)."""
    import torch

    chance = torch.randint(1 << 16, weight.shape, generator=generator, dtype=torch.int32, device=weight.device)
    return chance.add_(weight.view(torch.int32)).bitwise_and_(-1 << 16).view(torch.float32)


def optimizer_of(model: Any, stage: Stage, processes: Processes = ALONE) -> AdapterOptimizer:
    """What moves a model's trainable weights as a stage says; `processes` train it together."""
    spared = vectors(model) if stage.is_whole else []
    whole = stage.is_whole
    return AdapterOptimizer(trainable(model), stage.weight_decay, spared=spared, dithered=whole, processes=processes)
