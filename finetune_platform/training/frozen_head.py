"""What a model says of the next tokens where its output layer is frozen: the gradient is known with the logits.

So none of them are kept, nor computed again: of a token stays a vector of the hidden size instead of the vocabulary's
(as Liger's kernels do on a GPU, Hsu et al. 2024).
"""

from typing import Any

import torch
from torch.nn.functional import linear


class FrozenHead(torch.autograd.Function):
    """`apply(hidden, weight, bias, targets)` is the logarithm of the probability of each target, (n,) in float32.

    Args:
        hidden: (n, hidden).
        weight: Of the output layer, (vocabulary, hidden); it gets no gradient.
        bias: (vocabulary,) or None; likewise.
        targets: (n,) token ids.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        logs = linear(hidden, weight, bias).float().log_softmax(-1)
        said = logs.gather(1, targets[:, None])[:, 0]
        if ctx.needs_input_grad[0]:
            # One at the target, less every token's probability.
            slopes = logs.exp_().neg_()
            slopes[torch.arange(len(targets), device=targets.device), targets] += 1.0
            ctx.save_for_backward(slopes.to(hidden.dtype) @ weight)
        return said

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (of_hidden,) = ctx.saved_tensors
        return (of_hidden * gradient[:, None]).to(of_hidden.dtype), None, None, None
