"""The loss and its gradient against transformers' own on full logits, row by row."""

import pytest
import torch
from ticket_rows import examples

from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.task_training import Lora
from finetune_platform.training.collate import packed, padded
from finetune_platform.training.engine import Engine
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.loop import mean_loss
from finetune_platform.training.loss import supervised_loss
from finetune_platform.training.model import load_for_training, trainable
from finetune_platform.training.objectives import Tokens
from finetune_platform.training.preflight import compare_with_separate_rows, supervised_texts
from finetune_platform.training.rows import TrainRow, tokenise


@pytest.fixture(params=[packed, padded])
def batch(request):
    return request.param


def engine(packs=True):
    return Engine(packs, "", 2, "cpu")


@pytest.fixture
def rows(tiny_model):
    return tokenise(examples(9), load_tokenizer(tiny_model), "Name the topic.", 200)


@pytest.fixture
def model(tiny_model):
    """In float32, and as if trained for a while: a fresh adapter's B is zero, which would hide half of the gradient."""
    model, _ = load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable(model))])


def reference_loss(model, rows):
    """transformers' mean loss from labels, one unpadded row after the other, weighted by supervised tokens."""
    total = 0
    for row in rows:
        labels = [t if w else -100 for t, w in zip(row.input_ids, row.weights, strict=True)]
        out = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([labels]))
        total += out.loss * row.supervised
    return total / sum(row.supervised for row in rows)


def test_loss_and_gradient_equal_those_of_separate_rows_with_full_logits(model, rows, batch):
    ours = supervised_loss(model, batch(rows, 2, "cpu")) / sum(row.supervised for row in rows)
    theirs = reference_loss(model, rows)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    a, b = gradient(model, ours), gradient(model, theirs)
    assert ((a - b).norm() / b.norm()).item() < 1e-5


def test_a_batch_computed_in_parts_has_the_gradient_of_the_whole(model, rows, batch):
    whole = gradient(model, supervised_loss(model, batch(rows, 2, "cpu")))
    parts = sum(gradient(model, supervised_loss(model, batch(part, 2, "cpu"))) for part in (rows[:2], rows[2:]))
    assert ((whole - parts).norm() / whole.norm()).item() < 1e-5


def test_weights_scale_what_a_token_counts(model, rows, batch):
    doubled = [TrainRow(r.input_ids, [2 * w for w in r.weights], r.place) for r in rows[:1]]
    mixed = supervised_loss(model, batch(doubled + rows[1:2], 2, "cpu"))
    alone = [supervised_loss(model, batch([row], 2, "cpu")) for row in rows[:2]]
    assert mixed.item() == pytest.approx((2 * alone[0] + alone[1]).item(), rel=1e-5)


def test_validation_loss_is_the_mean_over_all_supervised_tokens(model, rows, batch):
    forward = choose_forward(model, engine(batch is packed))
    tokens = Tokens(rows, forward.engine.shapes(rows))
    measured, _ = mean_loss(forward, tokens, [(0, 1, 2), (3, 4), (5, 6, 7, 8)])
    assert measured == pytest.approx(reference_loss(model, rows).item(), rel=1e-5)


def test_padded_rows_get_no_mask(model, rows, monkeypatch):
    # With a dense mask the fast attention kernels are out of reach.
    masks = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, is_causal=False, **kwargs):
        masks.append((attn_mask, is_causal))
        return attend(*args, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    supervised_loss(model, padded(rows, 2, "cpu"))
    assert masks == [(None, True)] * 2


def test_preflight_passes_what_is_right_and_leaves_the_model_as_it_was(tiny_model, rows):
    model, _ = load_for_training(tiny_model, "tiny", Lora(r=4), dtype="bfloat16", device="cpu", seed=0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    differences = compare_with_separate_rows(choose_forward(model, engine()), rows)
    assert max(differences.values()) < 1e-5
    assert all(p.dtype == torch.bfloat16 and torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_preflight_refuses_an_architecture_whose_loss_would_be_wrong(model, rows):
    # As models do that scale their logits after the output layer.
    forward = type(model.get_base_model()).forward

    def scaled(*args, **kwargs):
        out = forward(model.get_base_model(), *args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    model.get_base_model().forward = scaled
    with pytest.raises(PermanentError, match="trains differently"):
        compare_with_separate_rows(choose_forward(model, engine()), rows)


def test_preflight_shows_what_is_supervised_and_refuses_an_empty_mask(tiny_model, rows):
    tokenizer = load_tokenizer(tiny_model)
    assert supervised_texts(rows, tokenizer) == [
        "card<|im_end|>",
        "transfer between accounts<|im_end|>",
        "login<|im_end|>",
    ]
    empty = [TrainRow(r.input_ids, [0.0] * len(r.input_ids), r.place) for r in rows]
    with pytest.raises(PermanentError, match="none of 9 rows has a supervised token"):
        supervised_texts(empty, tokenizer)
