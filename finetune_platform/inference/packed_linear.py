"""Products with the same weights over and over, for a few rows at a time.

On a CPU, torch gives float32 weights to MKL, which orders them anew in every call. For up to 200 rows that takes
as long as the product itself, and for odd numbers of rows longer. Ordered once for oneDNN (as torch's own compiler does
when it freezes a model) the same products take 50 to 100% of the time.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch

USUAL_ROWS = 16
"""oneDNN orders the weights for so many; other numbers are computed with the same order."""

Product = Callable[[torch.Tensor], torch.Tensor]


def product_of(linears: Sequence[torch.nn.Linear]) -> Product:
    """Linear layers of one input, as one product: (rows, inputs) to (rows, outputs of all of them side by side)."""
    weight = (
        torch.cat([linear.weight.detach() for linear in linears]) if len(linears) > 1 else linears[0].weight.detach()
    )
    biases = [weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias for linear in linears]
    bias = torch.cat(biases).detach() if any(linear.bias is not None for linear in linears) else None
    if not (torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype == torch.float32):
        return lambda x: torch.nn.functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, USUAL_ROWS)

    def product(x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))

    return product
