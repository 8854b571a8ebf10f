"""The learning rate of each step, and weights that move in float32 whatever the model computes in."""

import pytest
import torch
from transformers import get_scheduler

from finetune_platform.training.optimizer import AdapterOptimizer, learning_rates


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_after_the_warmup_rates_are_those_of_transformers(schedule):
    steps, warmup = 40, 4
    theirs = get_scheduler(
        schedule if schedule != "constant" else "constant_with_warmup",
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01),
        num_warmup_steps=warmup,
        num_training_steps=steps,
    )
    expected = []
    for _ in range(steps):
        expected.append(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()
    ours = learning_rates(steps, 0.01, schedule, 0.1)
    assert ours[warmup:] == pytest.approx(expected[warmup:])


def test_the_first_step_already_moves_and_the_warmup_rises_to_the_peak():
    rates = learning_rates(20, 1.0, "linear", 0.2)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert learning_rates(20, 1.0, "linear", 0.0)[0] == 1.0


def test_bfloat16_weights_keep_steps_smaller_than_their_last_bit():
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = AdapterOptimizer([parameter], 0.0)
    for _ in range(20):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step(1e-3, 1e9)  # bfloat16 next to 1 has steps of 4e-3 below it
    assert parameter.float().mean().item() == pytest.approx(0.98, abs=4e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dithered", [True, False])
def test_weights_that_are_dithered_are_seen_to_move_by_less_than_their_last_bit(dithered, sign):
    parameter = torch.nn.Parameter(torch.full((20_000,), sign, dtype=torch.bfloat16))
    optimizer = AdapterOptimizer([parameter], 0.0, dithered=dithered)
    for _ in range(3):
        parameter.grad = torch.full_like(parameter, sign)
        optimizer.step(3e-4, 1e9)  # bfloat16 next to 1 has steps of 4e-3 below it
    assert parameter.float().mean().item() == pytest.approx(sign * (1 - 9e-4 if dithered else 1), abs=1e-4)
    kept, rounded = optimizer.state(), parameter.detach().clone()
    with torch.no_grad():
        parameter.zero_()
    optimizer.restore(kept)
    assert torch.equal(parameter, rounded)


def test_clipping_reports_the_norm_before_it():
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    assert AdapterOptimizer([parameter], 0.0).step(0.1, 1.0) == pytest.approx(6.0)


def test_a_gradient_that_is_not_finite_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = AdapterOptimizer([parameter], 0.1)
    parameter.grad = torch.tensor([1.0, float("inf")])
    assert not torch.isfinite(torch.tensor(optimizer.step(0.1, 1.0)))
    assert parameter.tolist() == [1.0, 1.0] and parameter.grad is None
