"""Linear layers that read the same input, with their LoRA parts, as one product; and its gradient.

A low-rank part of its own is a product too thin for the hardware, and adding it another pass over the output. So the
rank becomes more columns: `[x, xAᵀ] [W, sB]ᵀ`. What surrounds the products belongs in `layer.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class _Part(NamedTuple):
    """One linear layer: its rows of the output and, where it has an adapter, its columns among the low-rank ones."""

    base: torch.nn.Linear
    a: torch.nn.Parameter | None
    b: torch.nn.Parameter | None
    scaling: float
    rows: slice
    columns: slice


class Product:
    """Layers side by side; `width` inputs, `rank` low-rank columns in all.

    The base weights move into one matrix that has room for the low-rank ones, and the layers keep views of it: nothing
    is held twice.

    Args:
        layers: Linear layers, or PEFT's LoRA layers over them.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.parts: list[_Part] = []
        row = column = 0
        for layer in layers:
            adapted = not isinstance(layer, torch.nn.Linear)
            base = layer.base_layer if adapted else layer
            a = layer.lora_A["default"].weight if adapted else None
            b = layer.lora_B["default"].weight if adapted else None
            rank = a.shape[0] if a is not None else 0
            scaling = float(layer.scaling["default"]) if adapted else 0.0
            rows, columns = slice(row, row + base.out_features), slice(column, column + rank)
            self.parts.append(_Part(base, a, b, scaling, rows, columns))
            row, column = rows.stop, columns.stop
        self.width, self.rank, self.outputs = self.parts[0].base.in_features, column, row
        self._extended = self._laid_out()

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained: A and B of each adapted layer."""
        return [
            weight for part in self.parts if part.a is not None and part.b is not None for weight in (part.a, part.b)
        ]

    def room(self, tokens: int, like: torch.Tensor) -> torch.Tensor:
        """(tokens, width + rank): whoever calls writes its input into the first `width` columns."""
        return like.new_empty(tokens, self.width + self.rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, outputs); completes the low-rank columns of `x`, which has `room`."""
        weight = self._with_b()
        if self.rank:
            torch.mm(x[:, : self.width], self._a().t(), out=x[:, self.width :])
        bias = self._bias()
        return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())

    def backward(self, gradient: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Gradients of the input, (tokens, width), and of `parameters`.

        Args:
            gradient: Of the output, (tokens, outputs).
            x: As `forward` left it.
        """
        back = gradient @ self._extended
        inputs, low = back[:, : self.width], back[:, self.width :]
        if not self.rank:
            return inputs, []
        of_a = low.t() @ x[:, : self.width]
        of_parameters = []
        for part in self.parts:
            if part.a is not None:
                down = x[:, self.width + part.columns.start : self.width + part.columns.stop]
                of_parameters += [of_a[part.columns], (gradient[:, part.rows].t() @ down).mul_(part.scaling)]
        return inputs.addmm_(low, self._a()), of_parameters

    def _a(self) -> torch.Tensor:
        return torch.cat([part.a.detach() for part in self.parts if part.a is not None])

    def _bias(self) -> torch.Tensor | None:
        if all(part.base.bias is None for part in self.parts):
            return None
        none = self._extended.new_zeros
        return torch.cat([none(p.base.out_features) if p.base.bias is None else p.base.bias for p in self.parts])

    def _with_b(self) -> torch.Tensor:
        """The matrix with today's B, written anew each time: a fused optimizer moves weights and leaves no trace."""
        first = self.parts[0].base.weight
        if first.data_ptr() != self._extended.data_ptr() or first.dtype != self._extended.dtype:
            self._extended = self._laid_out()  # Somebody gave the layers other weights.
        for part in self.parts:
            if part.b is not None:
                low = slice(self.width + part.columns.start, self.width + part.columns.stop)
                torch.mul(part.b.detach(), part.scaling, out=self._extended[part.rows, low])
        return self._extended

    def _laid_out(self) -> torch.Tensor:
        first = self.parts[0].base.weight
        extended = first.detach().new_zeros(self.outputs, self.width + self.rank)
        for part in self.parts:
            view = extended[part.rows, : self.width]
            view.copy_(part.base.weight.detach())
            part.base.weight.data = view
        return extended
