"""Linear layers for a few rows at a time on a CPU: the weights in the order in which oneDNN reads them.

torch's own product gives the weights to MKL, which orders them anew in every call. For one to two hundred rows that
takes as long as the product itself, and for odd numbers of rows longer. Ordered once (as torch's own compiler does when
it freezes a model) the same products take 50 to 100% of the time: `bench/engine.py` shows what that makes of a model.
"""

from typing import cast

import torch

USUAL_ROWS = 16
"""oneDNN orders the weights for so many; other numbers are computed with the same order."""


class PackedLinear(torch.nn.Module):
    """Takes a linear layer's place.

    Args:
        weight: (outputs, inputs), float32, on the CPU; copied.
        bias: (outputs,), or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.bias = bias
        self.packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), USUAL_ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], ""))


def is_packable(linear: torch.nn.Linear) -> bool:
    """Whether this build of torch and this layer allow it."""
    weight = linear.weight
    return torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype == torch.float32
