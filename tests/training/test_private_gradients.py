"""A private step's gradient: what each row adds, and what noise covers it."""

import math

import pytest
import torch
from company import Company
from ticket_rows import examples

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.manifests_training import PrivacyRecord
from finetune_platform.settings import Launched
from finetune_platform.task_training import Lora
from finetune_platform.training.engine import Engine
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.loss import full_logits_loss
from finetune_platform.training.model import load_for_training, trainable
from finetune_platform.training.private.gradients import PrivateGradient
from finetune_platform.training.processes import ALONE, joined
from finetune_platform.training.rows import tokenise

KEY = b"a secret of thirty-two bytes ..."
ENGINE = Engine(False, "", 2, "cpu")


def promised(noise_multiplier=0.0, max_grad_norm=1.0, rate=0.5, rows=18):
    return PrivacyRecord(
        kind="sft", epsilon=1, delta=1e-3, noise_multiplier=noise_multiplier, max_grad_norm=max_grad_norm,
        sample_rate=rate, steps=4, accountant="rdp", rows=rows, largest_group=1,
    )  # fmt: skip


def model_of(tiny_model, **lora):
    """In float32, and as if trained for a while: a fresh adapter's B is zero, which would hide half of the gradient."""
    model, _ = load_for_training(tiny_model, "tiny", Lora(r=4, **lora), dtype="float32", device="cpu", seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.train()


@pytest.fixture
def model(tiny_model):
    return model_of(tiny_model)


@pytest.fixture
def rows(tiny_model):
    """Of different lengths, one with an answer that counts twice."""
    found = tokenise(examples(9), load_tokenizer(tiny_model), "Name the topic.", 200)
    return [*found[:-1], found[-1]._replace(weights=[2 * weight for weight in found[-1].weights])]


def private(model, record):
    return PrivateGradient(choose_forward(model, ENGINE), record, KEY)


def left_in(model):
    return torch.cat([p.grad.flatten() for p in trainable(model)])


def one_at_a_time(model, rows):
    """Each row's gradient of its mean loss, through the model's own logits."""
    found = []
    for row in rows:
        loss = full_logits_loss(model, row, "cpu") / sum(row.weights)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable(model))]))
    return torch.stack(found)


@pytest.mark.parametrize("lora", [{}, {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]}])
def test_the_clipped_sum_is_that_of_rows_computed_one_at_a_time(tiny_model, rows, lora):
    model = model_of(tiny_model, **lora)
    alone = one_at_a_time(model, rows)
    norms = alone.norm(dim=1)
    limit = norms.median().item()
    assert (norms > limit).any() and (norms < limit).any()
    expected = (alone * (limit / norms).clamp(max=1)[:, None]).sum(0) / 9
    gradient = private(model, promised(max_grad_norm=limit))
    losses = sum(gradient.add(part).total.item() for part in (rows[:4], rows[4:8], rows[8:]))
    gradient.finish(0, ALONE)
    assert ((left_in(model) - expected).norm() / expected.norm()).item() < 1e-5
    assert losses == pytest.approx(sum(full_logits_loss(model, row, "cpu").item() for row in rows), rel=1e-5)


def test_no_row_moves_the_sum_by_more_than_the_limit(model, rows):
    limit, sums = 0.01, []
    for some in (rows, rows[1:]):
        gradient = private(model, promised(max_grad_norm=limit, rate=1.0, rows=1))
        gradient.add(some)
        gradient.finish(0, ALONE)
        sums.append(left_in(model))
    assert (sums[0] - sums[1]).norm().item() == pytest.approx(limit, rel=1e-3)


def test_noise_has_its_spread_is_new_in_every_step_and_the_same_when_a_step_is_repeated(model):
    record, drawn = promised(noise_multiplier=3.0, max_grad_norm=0.5), []
    for step in (0, 1, 1):
        private(model, record).finish(step, ALONE)  # A step that drew no row is noise alone.
        drawn.append(9 * left_in(model))
    for noise in drawn[:2]:
        count = len(noise)
        assert noise.std().item() == pytest.approx(1.5, abs=5 * 1.5 / math.sqrt(2 * count))
        assert abs(noise.mean().item()) < 5 * 1.5 / math.sqrt(count)
    correlation = torch.corrcoef(torch.stack(drawn[:2]))[0, 1].item()
    assert abs(correlation) < 5 / math.sqrt(count)
    assert torch.equal(drawn[1], drawn[2])


def test_a_step_that_was_stopped_leaves_nothing_behind(model, rows):
    gradient = private(model, promised())
    gradient.add(rows)
    gradient.drop()
    gradient.finish(0, ALONE)
    assert not left_in(model).any()


def test_an_adapter_that_trains_more_than_matrices_is_refused(tiny_model):
    model = model_of(tiny_model, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(BadInput, match="trains more than the two matrices of linear layers"):
        private(model, promised())


def of_one_process(tiny_model, rows, folder):
    with joined(Launched()) as processes:
        model = model_of(tiny_model)
        gradient = private(model, promised(noise_multiplier=1.0, max_grad_norm=0.1))
        gradient.add(rows[processes.rank :: 2])
        gradient.finish(0, processes)
        torch.save(left_in(model), folder / f"{processes.rank}.pt")


def test_two_processes_add_the_noise_of_one(tiny_model, model, rows, tmp_path):
    assert Company(2, of_one_process, tiny_model, rows, tmp_path).codes() == [0, 0]
    gradient = private(model, promised(noise_multiplier=1.0, max_grad_norm=0.1))
    gradient.add(rows)
    gradient.finish(0, ALONE)
    for rank in (0, 1):
        theirs = torch.load(tmp_path / f"{rank}.pt")
        assert ((theirs - left_in(model)).norm() / theirs.norm()).item() < 1e-5
