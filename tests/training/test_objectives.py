"""What each method makes smaller, against its paper's formula on log-probabilities of one row at a time."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from finetune_platform.task_training import Lora
from finetune_platform.training.engine import Engine
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.loop import mean_loss, sorted_batches
from finetune_platform.training.loss import full_logits_loss
from finetune_platform.training.model import load_for_training, trainable
from finetune_platform.training.objectives import DirectPreference, KahnemanTversky, OddsRatio
from finetune_platform.training.preferences import Judged, Pair
from finetune_platform.training.rows import TrainRow

BETA = 0.3


def answered(prompt: list[int], answer: list[int]) -> TrainRow:
    return TrainRow([*prompt, *answer], [0.0] * len(prompt) + [1.0] * len(answer), "x")


PROMPTS = [[5, 6, 7, *range(20, 20 + n)] for n in (3, 7, 5, 4)]
BETTER = [answered(prompt, [40, 41, 42][: 2 + n % 2]) for n, prompt in enumerate(PROMPTS)]
WORSE = [answered(prompt, [50, 51, 52, 53][: 3 + n % 2]) for n, prompt in enumerate(PROMPTS)]
PAIRS = [Pair(a, b, len(p)) for a, b, p in zip(BETTER, WORSE, PROMPTS, strict=True)]
JUDGED = [Judged(row, wanted) for row, wanted in zip([*BETTER, *WORSE], [True] * 4 + [False] * 4, strict=True)]


@pytest.fixture(params=[True, False], ids=["packed", "padded"])
def forward(request, tiny_model):
    """A model a little way from where its stage began."""
    model, _ = load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)
    return choose_forward(model, Engine(request.param, "", 2, "cpu"))


def move(model) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.05 * torch.randn_like(parameter))


def sums(model, rows) -> torch.Tensor:
    return torch.stack([-full_logits_loss(model, row, "cpu") for row in rows])


def gradient(model, loss) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable(model))])


def check(model, ours, theirs) -> None:
    assert ours.total.item() == pytest.approx(theirs.item(), rel=1e-4)
    a, b = gradient(model, ours.total), gradient(model, theirs)
    assert ((a - b).norm() / b.norm()).item() < 1e-4


def test_dpo_is_the_papers_loss_and_gradient(forward):
    objective, model = DirectPreference(PAIRS, BETA, shared=3), forward.model
    objective.refer(forward)
    reference = [sums(model, rows).detach() for rows in (BETTER, WORSE)]
    at_start = objective.loss(forward, [0, 1, 2, 3])
    assert at_start.total.item() == pytest.approx(4 * math.log(2), rel=1e-5), "nothing is preferred yet"
    assert abs(at_start.measures["reward_margin"]) < 1e-4
    move(model)
    now = [sums(model, rows) for rows in (BETTER, WORSE)]
    better, worse = (BETA * (after - before) for after, before in zip(now, reference, strict=True))
    ours = objective.loss(forward, [0, 1, 2, 3])
    check(model, ours, -logsigmoid(better - worse).sum())
    assert ours.measures["reward_margin"] == pytest.approx((better - worse).sum().item(), rel=1e-4)
    assert ours.measures["reward_accuracy"] == (better > worse).sum().item()


def test_orpo_is_the_papers_loss_and_gradient(forward):
    model = forward.model
    move(model)
    means = [sums(model, rows) / torch.tensor([float(row.supervised) for row in rows]) for rows in (BETTER, WORSE)]
    odds = [torch.log(mean.exp() / (1 - mean.exp())) for mean in means]
    theirs = (-means[0] - BETA * logsigmoid(odds[0] - odds[1])).sum()
    check(model, OddsRatio(PAIRS, BETA, shared=3).loss(forward, [0, 1, 2, 3]), theirs)


def test_kto_is_the_papers_loss_and_gradient(forward):
    model = forward.model
    objective = KahnemanTversky(JUDGED, BETA, desirable_weight=1.5, undesirable_weight=0.5, shared=3)
    objective.refer(forward)
    rows = [one.row for one in JUDGED]
    answers = [row.input_ids[-row.supervised :] for row in rows]
    others = zip((*PROMPTS, *PROMPTS), [*answers[1:], answers[0]], strict=True)
    strangers = [answered(prompt, answer) for prompt, answer in others]
    before, apart_before = sums(model, rows).detach(), sums(model, strangers).detach()
    move(model)
    apart = (sums(model, strangers).detach() - apart_before).mean().clamp(min=0)
    ratios = sums(model, rows) - before
    wanted = 1.5 * (1 - torch.sigmoid(BETA * (ratios[:4] - apart)))
    unwanted = 0.5 * (1 - torch.sigmoid(BETA * (apart - ratios[4:])))
    check(model, objective.loss(forward, list(range(8))), wanted.sum() + unwanted.sum())


@pytest.mark.parametrize("made", [DirectPreference, OddsRatio], ids=["dpo", "orpo"])
def test_a_step_in_parts_is_the_step_in_one(forward, made):
    objective = made(PAIRS, BETA, 3)
    if isinstance(objective, DirectPreference):
        objective.refer(forward)
    move(forward.model)
    whole = gradient(forward.model, objective.loss(forward, [0, 1, 2, 3]).total)
    parts = sum(gradient(forward.model, objective.loss(forward, part).total) for part in ([2, 0], [3, 1]))
    assert ((whole - parts).norm() / whole.norm()).item() < 1e-4


def test_the_mean_over_held_out_pairs_counts_each_once(forward):
    objective = DirectPreference(PAIRS, BETA, 3)
    objective.refer(forward)
    move(forward.model)
    loss, measures = mean_loss(forward, objective, sorted_batches(objective, 40))
    whole = objective.loss(forward, [0, 1, 2, 3])
    assert loss == pytest.approx(whole.total.item() / 4, rel=1e-5)
    assert measures["reward_margin"] == pytest.approx(whole.measures["reward_margin"] / 4, rel=1e-5)
