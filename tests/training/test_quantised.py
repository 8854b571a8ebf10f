"""A base model in 4 bits: what is loaded, what is counted, and that its adapter trains like any other."""

import copy

import pytest
import torch
from pydantic import ValidationError
from ticket_rows import examples

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.task_training import Lora, Quantization, Training
from finetune_platform.training.batches import plan_steps
from finetune_platform.training.engine import Engine
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.loop import mean_loss, sorted_batches, train_steps
from finetune_platform.training.model import load_for_training, skeleton, trainable
from finetune_platform.training.objectives import Tokens
from finetune_platform.training.optimizer import AdapterOptimizer
from finetune_platform.training.preflight import compare_with_separate_rows
from finetune_platform.training.quantised import bytes_in_4_bits, quantised_layers
from finetune_platform.training.rows import tokenise
from finetune_platform.training.work import network_of

IN_4_BITS = Quantization(load_in_4bit=True)
ENGINE = Engine(True, "", 2, "cpu")


def load(tiny_model, dtype="float32", lora=None, quantization=IN_4_BITS):
    lora = lora or Lora(r=4)
    return load_for_training(tiny_model, "tiny", lora, dtype=dtype, device="cpu", seed=0, quantization=quantization)[0]


@pytest.fixture
def rows(tiny_model):
    return tokenise(examples(24), load_tokenizer(tiny_model), "Name the topic.", 200)


def gradient(forward, rows):
    weights = trainable(forward.model)
    found = torch.autograd.grad(forward.supervised_loss(rows), weights, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_adapter_is_the_one_that_would_stand_beside_the_whole_model(tiny_model, dtype):
    model, whole = load(tiny_model, dtype), load(tiny_model, dtype, quantization=None)
    assert len(quantised_layers(model.get_base_model())) == 2 * 7
    assert {p.dtype for p in trainable(model)} == {getattr(torch, dtype)}
    for ours, theirs in zip(trainable(model), trainable(whole), strict=True):
        assert torch.equal(ours, theirs)
    kept = [p for p in model.get_base_model().parameters() if p.is_floating_point() and not p.requires_grad]
    assert len(kept) == 1 + 2 * 2 + 1 and {p.dtype for p in kept} == {getattr(torch, dtype)}  # embeddings, norms


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_it_computes_with_the_rounded_weights_and_their_gradient(tiny_model, rows, quant_type):
    """Against a plain model that was given what the 4 bits stand for."""
    from bitsandbytes.functional import dequantize_4bit

    held = IN_4_BITS.model_copy(update={"bnb_4bit_quant_type": quant_type})
    model, plain = load(tiny_model, quantization=held), load(tiny_model, quantization=None)
    names = {id(layer): name for name, layer in model.named_modules()}
    changed = []
    for layer in quantised_layers(model.get_base_model()):
        rounded = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        weight = plain.get_submodule(names[id(layer)]).weight
        changed.append(float((weight - rounded).norm() / weight.norm()))
        weight.data = rounded
    assert all(0.05 < change < 0.2 for change in changed)
    ours, theirs = choose_forward(model, ENGINE), choose_forward(plain, ENGINE)
    assert ours.fused is None and "the base model is in 4 bits" in ours.reason and theirs.fused is not None
    for parameter in trainable(model):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    for parameter, same in zip(trainable(plain), trainable(model), strict=True):
        parameter.data = same.data.clone()
    assert (gradient(ours, rows) - gradient(theirs, rows)).norm() / gradient(theirs, rows).norm() < 1e-5


def test_a_pass_without_a_gradient_leaves_the_weights_as_they_are(tiny_model, rows):
    """Some CPUs have a layout of their own for it, which lets no gradient through afterwards."""
    model = load(tiny_model, "bfloat16")
    forward, objective = choose_forward(model, ENGINE), Tokens(rows, ENGINE.shapes(rows))
    held = copy.deepcopy([layer.weight.data for layer in quantised_layers(model.get_base_model())])
    before = gradient(forward, rows)
    mean_loss(forward, objective, sorted_batches(objective, 400))
    for layer, data in zip(quantised_layers(model.get_base_model()), held, strict=True):
        assert torch.equal(layer.weight.data, data)
    model.train()
    assert torch.equal(gradient(forward, rows), before)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"target_modules": ["q_proj"]}], ids=str)
def test_it_trains_packed_and_padded_alike(tiny_model, rows, options):
    model = load(tiny_model, lora=Lora(r=4, **options))
    forward, objective = choose_forward(model, ENGINE), Tokens(rows, ENGINE.shapes(rows))
    assert forward.fused is None
    assert max(compare_with_separate_rows(forward, rows).values()) < 1e-5
    assert {layer.compute_dtype for layer in quantised_layers(model.get_base_model())} == {torch.float32}
    plan = plan_steps(
        objective.shapes, epochs=3, batch_size=4, gradient_accumulation_steps=1, tokens_per_forward=400, seed=0
    )
    before, _ = mean_loss(forward, objective, sorted_batches(objective, 400))
    limits = {"eval_steps": 100, "tokens_per_forward": 400, "max_grad_norm": 1.0}
    optimizer = AdapterOptimizer(trainable(model), 0.0)
    for _ in train_steps(forward, optimizer, objective, plan, [0.01] * len(plan), held_out=None, **limits):
        pass
    after, _ = mean_loss(forward, objective, sorted_batches(objective, 400))
    assert after < before - 0.1


def test_preflight_compares_in_float32_and_puts_the_format_back(tiny_model, rows):
    model = load(tiny_model, "bfloat16")
    assert max(compare_with_separate_rows(choose_forward(model, ENGINE), rows).values()) < 1e-5
    assert {layer.compute_dtype for layer in quantised_layers(model.get_base_model())} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.uint8}


def test_layers_that_are_computed_again_have_the_same_gradient(tiny_model, rows):
    plain = gradient(choose_forward(load(tiny_model), ENGINE), rows)
    again = choose_forward(load(tiny_model), ENGINE).checkpointed()
    again.model.train()
    assert (gradient(again, rows) - plain).norm() / plain.norm() < 1e-5


@pytest.mark.parametrize("double", [True, False])
def test_what_is_counted_before_is_what_is_held(tiny_model, double):
    held = Quantization(load_in_4bit=True, bnb_4bit_use_double_quant=double)
    model, whole = load(tiny_model, quantization=held), load(tiny_model, quantization=None)
    network = network_of(skeleton(tiny_model, "tiny", Lora(r=4), "float32"), held)
    assert network == network_of(model, held)
    assert network._replace(bytes=0, read=0) == network_of(whole)._replace(bytes=0, read=0)
    base = model.get_base_model()
    taken = sum(p.numel() * p.element_size() for p in base.parameters() if not p.requires_grad)
    for layer in quantised_layers(base):
        state = layer.weight.quant_state
        taken += state.absmax.numel() * state.absmax.element_size()
        taken += state.state2.absmax.numel() * 4 if double else 0
    assert network.bytes == pytest.approx(taken, rel=1e-3)
    assert network.bytes < network_of(whole).bytes


def test_stages_stand_beside_one_base_model_and_options_are_transformers(tiny_model):
    stage = {"quantization": {"load_in_4bit": True}}
    assert Training(stages=[stage, {**stage, "method": "dpo"}]).stages[1].quantization == IN_4_BITS
    with pytest.raises(ValidationError, match=r"stages\[1\].quantization differs from stages\[0\].quantization"):
        Training(stages=[stage, {"method": "dpo"}])
    with pytest.raises(ValidationError, match="with peft: null none are"):
        Training(stages=[{**stage, "peft": None}])
    with pytest.raises(ValidationError, match="load_in_8bit"):
        Training(stages=[{"quantization": {"load_in_8bit": True}}])
    with pytest.raises(ValidationError, match="load_in_4bit"):
        Training(stages=[{"quantization": {"load_in_4bit": False}}])


def test_a_base_model_that_is_quantised_already_is_refused(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True)
    AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=config).save_pretrained(tmp_path / "small")
    with pytest.raises(BadInput, match="are quantised already"):
        load(tmp_path / "small")


def test_bytes_of_the_paper():
    """Section 3: scales take half a bit a weight in float32, and 0.127 bits quantised again."""
    million = 2**20 * 64
    plain = Quantization(load_in_4bit=True, bnb_4bit_use_double_quant=False)
    assert bytes_in_4_bits(million, plain) * 8 / million == pytest.approx(4.5)
    assert bytes_in_4_bits(million, IN_4_BITS) * 8 / million == pytest.approx(4.127, abs=1e-3)
