"""A base model divided among two processes computes what a whole one does, and each holds half of it."""

import pytest
import torch
from company import Company
from test_checkpoints import ENGINE, Run
from ticket_rows import examples
from torch.distributed.tensor import DTensor

from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.settings import Launched
from finetune_platform.task_training import Lora
from finetune_platform.training.engine import Engine
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.golden import golden_answers
from finetune_platform.training.model import load_for_training, trainable
from finetune_platform.training.objectives import KahnemanTversky
from finetune_platform.training.preferences import Judged
from finetune_platform.training.preflight import compare_with_separate_rows
from finetune_platform.training.processes import ALONE, joined
from finetune_platform.training.rows import tokenise
from finetune_platform.training.sharded import gathered_bytes, layers_of
from finetune_platform.training.whole_model import base_of

DORA = Lora(r=4, use_dora=True, use_rslora=True)
"""Reads the weights beside it in every pass, for their norm."""


def curve_and_gradients(tiny_model, processes, batch):
    """Of a few steps, with their validations; with one row a step one of two processes has nothing to compute."""
    run = Run(tiny_model, dropout=0.0, processes=processes, batch=batch)
    run.forward = run.forward._replace(fused=None)  # whose own rounding some steps would make large
    first = torch.cat([p.detach().flatten().clone() for p in trainable(run.model)])
    seen, move = [], run.optimizer.step

    def step(rate, norm):
        seen.append(torch.cat([p.grad.flatten().clone() for p in run.optimizer.parameters]))
        return move(rate, norm)

    run.optimizer.step = step
    run.train(until=6, processes=processes)
    losses = [loss for e in run.log for loss in (e.loss, e.validation_loss) if loss is not None]
    return {"first": first, "gradients": torch.stack(seen), "losses": torch.tensor(losses)}


def one_pass(tiny_model, processes, packs, twice):
    """Loss and gradient of one pass over the same rows at every process, and of a preference."""
    model, _ = load_for_training(tiny_model, "tiny", DORA, dtype="float32", device="cpu", seed=0, processes=processes)
    forward = choose_forward(model, Engine(packs, "", 2, "cpu"))
    assert processes.sharded == ("divided among processes" in forward.reason) or not packs
    forward = forward.checkpointed() if twice else forward
    rows = tokenise(examples(6), load_tokenizer(tiny_model), "Name the topic.", 200)
    judged = KahnemanTversky([Judged(row, n % 2 == 0) for n, row in enumerate(rows)], 0.1)
    judged.refer(forward)
    total = forward.supervised_loss(rows) + judged.loss(forward, range(6)).total
    total.backward()
    return {"loss": total.detach(), "gradient": torch.cat([p.grad.flatten() for p in trainable(model)])}


def in_bfloat16(tiny_model, processes):
    """What preflight finds, and the loss after it, which is in the model's own format again."""
    model, _ = load_for_training(
        tiny_model, "tiny", Lora(r=4), dtype="bfloat16", device="cpu", seed=0, processes=processes
    )
    rows = tokenise(examples(9), load_tokenizer(tiny_model), "Name the topic.", 200)
    forward = choose_forward(model, ENGINE)._replace(fused=None)
    before = [p.detach().clone() for p in trainable(model)]
    found = compare_with_separate_rows(forward, rows)
    assert all(torch.equal(one, other) for one, other in zip(before, trainable(model), strict=True))
    with torch.no_grad():
        loss = forward.supervised_loss(rows)
    held = {
        "own": sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor)),
        "all": sum(p.numel() for p in base_of(model).parameters() if not p.requires_grad),
    }
    golden = golden_answers(model, load_tokenizer(tiny_model), examples(2), "Name the topic.")
    return {"found": found, "loss": loss, "golden": golden, "held": held}


def everything(tiny_model, processes):
    return {
        "steps": curve_and_gradients(tiny_model, processes, 4),
        "lonely steps": curve_and_gradients(tiny_model, processes, 1),
        "packed": one_pass(tiny_model, processes, True, False),
        "padded, computed twice": one_pass(tiny_model, processes, False, True),
        "packed, computed twice": one_pass(tiny_model, processes, True, True),
        "bfloat16": in_bfloat16(tiny_model, processes),
    }


def in_company(tiny_model, folder):
    with joined(Launched()) as processes:
        found = everything(tiny_model, processes._replace(sharded=True))
        torch.save(found, folder / f"{processes.rank}.pt")


def apart(one, other):
    return float((one - other).norm() / other.norm())


def test_two_processes_that_divide_a_model_compute_what_one_does_and_hold_half_of_it_each(tiny_model, tmp_path):
    assert Company(2, in_company, tiny_model, tmp_path).codes() == [0, 0]
    alone = everything(tiny_model, ALONE)
    for rank in (0, 1):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for case in ("steps", "lonely steps"):
            found, expected = theirs[case], alone[case]
            assert torch.equal(found["first"], expected["first"]), "an adapter begins at the same weights"
            assert apart(found["gradients"][0], expected["gradients"][0]) < 1e-5
            assert apart(found["gradients"], expected["gradients"]) < 1e-4  # weights have gone their own ways by now
            assert torch.allclose(found["losses"], expected["losses"], rtol=1e-5)
        for case in ("packed", "padded, computed twice", "packed, computed twice"):
            assert apart(theirs[case]["gradient"], alone[case]["gradient"]) < 1e-5, case
            assert theirs[case]["loss"].item() == pytest.approx(alone[case]["loss"].item(), rel=1e-5)
        short = theirs["bfloat16"]
        assert max(short["found"].values()) < 1e-5, "preflight compares in float32"
        assert short["loss"].item() == pytest.approx(alone["bfloat16"]["loss"].item(), rel=1e-6)
        assert short["golden"] == alone["bfloat16"]["golden"]
        assert 0.45 < short["held"]["own"] / short["held"]["all"] < 0.55


def test_what_is_gathered_is_the_root_and_a_few_layers(tiny_model):
    model, _ = load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)
    base = base_of(model)
    frozen = sum(p.numel() for p in base.parameters() if not p.requires_grad)
    assert len(layers_of(base)) == 2 and gathered_bytes(base) == 4 * frozen  # this one has fewer layers than that
    base.config.num_hidden_layers = 5
    with pytest.raises(PermanentError, match="has no list of its 5 layers"):
        layers_of(base)
