"""A base model divided among two processes computes what a whole one does, and each holds half of it."""

import pytest
import torch
from company import Company
from test_checkpoints import ENGINE, PATH, Run
from ticket_rows import examples
from torch.distributed.tensor import DTensor

from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.lake import Lake
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


def flat(tensors):
    return torch.cat([(t.full_tensor() if isinstance(t, DTensor) else t).detach().flatten() for t in tensors])


def curve_and_gradients(tiny_model, processes, batch, whole=False):
    """Of a few steps, with their validations; with one row a step one of two processes has nothing to compute."""
    run = Run(tiny_model, dropout=0.0, rate=0.001 if whole else 0.01, whole=whole, processes=processes, batch=batch)
    run.forward = run.forward._replace(fused=None)  # whose own rounding some steps would make large
    first = flat(trainable(run.model))
    seen, move = [], run.optimizer.step

    def step(rate, norm):
        seen.append(flat(p.grad for p in run.optimizer.parameters))
        return move(rate, norm)

    run.optimizer.step = step
    run.train(until=4)
    losses = [loss for e in run.log for loss in (e.loss, e.validation_loss) if loss is not None]
    return {"first": first, "gradients": torch.stack(seen), "losses": torch.tensor(losses)}


def one_pass(tiny_model, processes, packs, twice, lora=DORA):
    """Loss and gradient of one pass over the same rows at every process, and of a preference."""
    model, _ = load_for_training(tiny_model, "tiny", lora, dtype="float32", device="cpu", seed=0, processes=processes)
    forward = choose_forward(model, Engine(packs, "", 2, "cpu"))
    assert processes.sharded == ("divided among processes" in forward.reason) or not packs or lora is None
    forward = forward.checkpointed() if twice else forward
    rows = tokenise(examples(6), load_tokenizer(tiny_model), "Name the topic.", 200)
    judged = KahnemanTversky([Judged(row, n % 2 == 0) for n, row in enumerate(rows)], 0.1)
    judged.refer(forward)
    total = forward.supervised_loss(rows) + judged.loss(forward, range(6)).total
    total.backward()
    return {"loss": total.detach(), "gradient": flat(p.grad for p in trainable(model))}


def in_bfloat16(tiny_model, processes, lora):
    """What preflight finds, and the loss after it, which is in the model's own format again."""
    model, _ = load_for_training(tiny_model, "tiny", lora, dtype="bfloat16", device="cpu", seed=0, processes=processes)
    rows = tokenise(examples(9), load_tokenizer(tiny_model), "Name the topic.", 200)
    forward = choose_forward(model, ENGINE)._replace(fused=None)
    before = flat(trainable(model))
    found = compare_with_separate_rows(forward, rows, processes)
    assert torch.equal(before, flat(trainable(model))) and all(p.grad is None for p in trainable(model))
    with torch.no_grad():
        loss = forward.supervised_loss(rows)
    held = {
        "own": sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor)),
        "all": sum(p.numel() for p in base_of(model).parameters() if lora is None or not p.requires_grad),
    }
    golden = golden_answers(model, load_tokenizer(tiny_model), examples(2), "Name the topic.")
    return {"found": found, "loss": loss, "golden": golden, "held": held}


def everything(tiny_model, processes):
    return {
        "steps": curve_and_gradients(tiny_model, processes, 4),
        "lonely steps": curve_and_gradients(tiny_model, processes, 1),
        "padded, computed twice": one_pass(tiny_model, processes, False, True),
        "packed, computed twice": one_pass(tiny_model, processes, True, True),
        "bfloat16": in_bfloat16(tiny_model, processes, Lora(r=4)),
        "all weights: steps": curve_and_gradients(tiny_model, processes, 4, whole=True),
        "all weights: lonely steps": curve_and_gradients(tiny_model, processes, 1, whole=True),
        "all weights: packed, computed twice": one_pass(tiny_model, processes, True, True, None),
        "all weights: bfloat16": in_bfloat16(tiny_model, processes, None),
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
        for case in (name for name in alone if "steps" in name):
            found, expected = theirs[case], alone[case]
            assert torch.equal(found["first"], expected["first"]), "an adapter begins at the same weights"
            assert apart(found["gradients"][0], expected["gradients"][0]) < 1e-5
            assert apart(found["gradients"], expected["gradients"]) < 1e-4  # weights have gone their own ways by now
            assert torch.allclose(found["losses"], expected["losses"], rtol=1e-5)
        for case in (name for name in alone if "packed" in name or "padded" in name):
            # At two processes that compute the same, all that is divided is added up.
            share = 2 if "all weights" in case else 1
            assert apart(theirs[case]["gradient"] / share, alone[case]["gradient"]) < 1e-5, case
            assert theirs[case]["loss"].item() == pytest.approx(alone[case]["loss"].item(), rel=1e-5)
        for case in (name for name in alone if "bfloat16" in name):
            short = theirs[case]
            # The sum over processes of a gradient is rounded to the weights' own format.
            assert max(short["found"].values()) < (3e-4 if "all weights" in case else 1e-5), "compared in float32"
            assert short["loss"].item() == pytest.approx(alone[case]["loss"].item(), rel=1e-6)
            assert short["golden"] == alone[case]["golden"]
            assert 0.45 < short["held"]["own"] / short["held"]["all"] < 0.55


FORMATS = ("float32", "bfloat16")


def halves(tiny_model, folder):
    """Writes a checkpoint in the middle of a run, and goes on from one that a single process wrote."""
    with joined(Launched()) as processes:
        divided, found = processes._replace(sharded=True), {}
        for dtype in FORMATS:
            made = Run(tiny_model, dtype, 0.001, whole=True, processes=divided)
            made.train(until=4).save(Lake(str(folder / f"{dtype} of three")), folder)
            divided.wait()
            run = Run(tiny_model, dtype, 0.001, whole=True, processes=divided)
            run.restore(Lake(str(folder / f"{dtype} of one")), folder, 4)
            found[dtype] = kept(run), losses(run.train())
        torch.save(found, folder / f"{processes.rank}.pt")


def kept(run):
    """What the optimizer has of all weights, and they themselves; of divided ones at the first process."""
    weights, state = flat(run.optimizer.parameters), run.optimizer.state()
    moments = [of_one[name] for of_one in state["adamw"]["state"].values() for name in ("exp_avg", "exp_avg_sq")]
    return [weights, flat(moments), flat(state["weights"]) if state["weights"] else None]


def losses(run):
    return [entry.loss for entry in run.log]


@pytest.mark.slow
def test_from_a_checkpoint_of_all_weights_any_number_of_processes_goes_on(tiny_model, tmp_path):
    alone = {dtype: Run(tiny_model, dtype, 0.001, whole=True).train(until=4) for dtype in FORMATS}
    expected = {}
    for dtype, run in alone.items():
        run.save(Lake(str(tmp_path / f"{dtype} of one")), tmp_path)
        expected[dtype] = kept(run), losses(run.train())
    assert Company(3, halves, tiny_model, tmp_path).codes() == [0, 0, 0]
    theirs = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(3)]
    for dtype, near in (("float32", 1e-4), ("bfloat16", 0.02)):  # there each number is rounded by its own chance
        state, curve = expected[dtype]
        lakes = [Lake(str(tmp_path / f"{dtype} of {who}")) for who in ("one", "three")]
        assert {o.path for o in lakes[0].list(PATH)} == {o.path for o in lakes[1].list(PATH)}
        resumed = Run(tiny_model, dtype, 0.001, whole=True).restore(lakes[1], tmp_path, 4)
        assert apart(kept(resumed)[0].float(), state[0].float()) < near
        assert losses(resumed.train()) == pytest.approx(curve, rel=near)
        for found, their_curve in (their[dtype] for their in theirs):
            assert their_curve == pytest.approx(curve, rel=near)
            assert apart(found[0].float(), state[0].float()) < near
        exact = theirs[0][dtype][0]
        assert torch.equal(exact[1], state[1])
        assert exact[2] is None if dtype == "float32" else torch.equal(exact[2], state[2])


def test_what_is_gathered_is_the_root_and_a_few_layers(tiny_model):
    model, _ = load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)
    base = base_of(model)
    frozen = sum(p.numel() for p in base.parameters() if not p.requires_grad)
    assert len(layers_of(base)) == 2 and gathered_bytes(base) == 4 * frozen  # this one has fewer layers than that
    base.config.num_hidden_layers = 5
    with pytest.raises(PermanentError, match="has no list of its 5 layers"):
        layers_of(base)
