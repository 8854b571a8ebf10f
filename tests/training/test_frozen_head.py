"""The output layer that keeps a gradient instead of logits says and teaches what cross-entropy does."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from finetune_platform.training.frozen_head import FrozenHead


def parts(dtype: torch.dtype, bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 16).to(dtype), torch.randn(97, 16).to(dtype)
    return hidden, weight, torch.randn(97).to(dtype) if bias else None, torch.randint(0, 97, (11,))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
def test_probabilities_and_gradient_are_those_of_cross_entropy(dtype, error, bias):
    hidden, weight, of_bias, targets = parts(dtype, bias)
    counts = torch.linspace(-1, 2, len(targets))  # every token weighs differently, one nothing
    expected = hidden.clone().requires_grad_()
    theirs = -cross_entropy(linear(expected, weight, of_bias).float(), targets, reduction="none")
    (theirs * counts).sum().backward()
    found = hidden.clone().requires_grad_()
    ours = FrozenHead.apply(found, weight, of_bias, targets)
    (ours * counts).sum().backward()
    assert ours.dtype == torch.float32 and found.grad.dtype == dtype
    assert torch.equal(ours, theirs)
    assert ((found.grad - expected.grad).norm() / expected.grad.norm()).item() < error


def test_where_no_gradient_is_wanted_none_is_computed():
    hidden, weight, _, targets = parts(torch.float32, False)
    ours = FrozenHead.apply(hidden, weight, None, targets)
    assert not ours.requires_grad
    assert torch.allclose(ours, linear(hidden, weight).log_softmax(-1)[torch.arange(11), targets])
