"""The gradient of a private step: each row's own, clipped, added up, and covered by noise.

Rows are padded, never packed behind a shared beginning: there the gradient of what they share is that of all together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.manifests_training import PrivacyRecord
from finetune_platform.training.forward import Forward
from finetune_platform.training.model import trainable
from finetune_platform.training.objectives import Loss
from finetune_platform.training.private.sampling import normals
from finetune_platform.training.processes import Processes
from finetune_platform.training.rows import TrainRow

if TYPE_CHECKING:
    import torch

COMPARED = 10
"""Forward passes of a process in which rows' gradients are compared with their batch's."""

TOLERANCE = 0.05
"""Relative to the sum of the rows' norms: bfloat16 rounds each row's gradient to eight bits. A weight that acts
twice is off by far more."""


class PrivateGradient:
    """Sums clipped gradients over the forward passes of a step, then leaves the noisy mean in the parameters.

    Sums and noise are float32, whatever the adapter's format.

    Args:
        forward: With an engine that pads; only LoRA's linear layers may be trainable.
        promised: How much noise, and what rows are clipped to.
        key: The run's secret.

    Raises:
        BadInput: Something else is trainable.
    """

    def __init__(self, forward: Forward, promised: PrivacyRecord, key: bytes) -> None:
        self._forward, self._promised, self._key = forward, promised, key
        self._layers = _adapter_layers(forward.model)
        self._sums: list[torch.Tensor] | None = None
        self._compared = 0

    def add(self, rows: Sequence[TrainRow]) -> Loss:
        """Adds the clipped gradient of each row's mean loss; returns the loss as plain training counts it."""
        import torch

        with _by_row(self._layers, len(rows)) as found:
            values, batch = self._forward.log_probs(rows)
            weighted = values.new_zeros(len(rows)).index_add(0, batch.owners, -values * batch.weights)
            weights = torch.tensor([sum(row.weights) for row in rows], device=weighted.device)
            (weighted / weights).sum().backward()
        gradients = [found[place] for place in range(len(self._layers))]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        self._expect_nothing_else(gradients, norms)
        limit = self._promised.max_grad_norm
        factors = limit / norms.clamp(min=limit)
        sums = [torch.einsum("n,noi->oi", factors, g) for g in gradients]
        self._sums = sums if self._sums is None else [a.add_(b) for a, b in zip(self._sums, sums, strict=True)]
        return Loss(weighted.detach().sum(), {})

    def finish(self, step: int, processes: Processes) -> None:
        """Leaves the step's gradient in the parameters: sum and noise, over the rows that a step has on average.

        Not over those that it drew: their number tells whether a row was among them.

        Args:
            step: From 0; names the noise.
            processes: That share the step; the first adds the noise.
        """
        import torch

        weights = [layer.weight for layer in self._layers]
        sums = self._sums or [torch.zeros_like(w, dtype=torch.float32) for w in weights]
        self.drop()
        if processes.leads:
            spread = self._promised.noise_multiplier * self._promised.max_grad_norm
            noise = torch.from_numpy(normals(self._key, f"noise/{step}", sum(s.numel() for s in sums)))
            for total, part in zip(sums, noise.split([s.numel() for s in sums]), strict=True):
                total.add_(part.view_as(total).to(total.device), alpha=spread)
        carriers = [torch.nn.Parameter(total, requires_grad=False) for total in sums]
        for carrier, total in zip(carriers, sums, strict=True):
            carrier.grad = total
        processes.add_gradients(carriers)
        expected = self._promised.sample_rate * self._promised.rows
        for weight, carrier in zip(weights, carriers, strict=True):
            assert carrier.grad is not None
            weight.grad = (carrier.grad / expected).to(weight.dtype)

    def drop(self) -> None:
        """Forgets what was added."""
        self._sums = None

    def _expect_nothing_else(self, gradients: "Sequence[torch.Tensor]", norms: "torch.Tensor") -> None:
        """Takes autograd's own gradient away; it must have been the sum over rows, or clipping rows clips too little.

        Looked at in the first passes: a fresh adapter has no gradient at A in the very first.

        Raises:
            PermanentError: It was another.
        """
        import torch

        plain = []
        for layer in self._layers:
            assert layer.weight.grad is not None
            plain.append(layer.weight.grad.float().flatten())
            layer.weight.grad = None
        if self._compared == COMPARED or not torch.isfinite(norms).all():
            return  # What is not finite, the optimizer refuses.
        whole, summed = torch.cat(plain), torch.cat([g.sum(0).flatten() for g in gradients])
        if not (whole - summed).norm() <= TOLERANCE * norms.sum():
            raise PermanentError(
                "training.stages[].privacy: the gradients of single rows do not add up to that of the batch",
                "use a base model with plain linear layers",
            )
        self._compared += 1


def _adapter_layers(model: Any) -> "list[torch.nn.Linear]":
    """The linear layers that are trained, and nothing else is."""
    import torch
    from peft.tuners.lora import LoraLayer

    parts = [part for module in model.modules() if isinstance(module, LoraLayer) for part in _parts(module)]
    layers = [part for part in parts if isinstance(part, torch.nn.Linear) and part.bias is None]
    if {id(layer.weight) for layer in layers} != {id(weight) for weight in trainable(model)}:
        raise BadInput(
            "training.stages[].privacy: this adapter trains more than the two matrices of linear layers, and the "
            "gradient of one row is known for those only",
            "set peft.target_modules to all-linear, or to names of linear layers",
        )
    return layers


def _parts(module: Any) -> "list[torch.nn.Module]":
    return [*module.lora_A.values(), *module.lora_B.values()]


@contextmanager
def _by_row(layers: "Sequence[torch.nn.Linear]", rows: int) -> "Iterator[dict[int, torch.Tensor]]":
    """What is computed forward and backward inside leaves here the gradient of each layer's weight, by the layer's
    place: (rows, outputs, inputs) in float32."""
    import torch

    found: dict[int, torch.Tensor] = {}

    def watch(place: int) -> Any:
        def forward(layer: Any, inputs: Any, output: Any) -> None:
            read = inputs[0].detach()
            if read.dim() != 3 or len(read) != rows:
                raise PermanentError(
                    "training.stages[].privacy: this architecture does not keep the rows of a batch apart inside",
                    "use a base model with plain linear layers, or leave such layers out of peft.target_modules",
                )

            def backward(gradient: Any) -> None:
                of_rows = torch.einsum("nto,nti->noi", gradient, read).float()
                found[place] = found[place] + of_rows if place in found else of_rows

            output.register_hook(backward)

        return forward

    handles = [layer.register_forward_hook(watch(place)) for place, layer in enumerate(layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
