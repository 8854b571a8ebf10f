"""Fused layers give the hidden states, loss and gradient that transformers and PEFT give, for every architecture."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.inference.decoder import MODEL_TYPES
from finetune_platform.training import packed_attention
from finetune_platform.training.collate import packed
from finetune_platform.training.engine import Engine
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.fused import dense_attention, flash_attention
from finetune_platform.training.fused.decoder import FusedDecoder, against_fusing
from finetune_platform.training.fused.heads import Heads
from finetune_platform.training.loss import supervised_loss
from finetune_platform.training.model import trainable
from finetune_platform.training.packed_attention import layout_of, seeing
from finetune_platform.training.rows import TrainRow

OWN = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"head_dim": 16, "sliding_window": None},
    "smollm3": {"no_rope_layer_interval": 2},
}
"""What makes an architecture itself; with it every branch of a layer is computed somewhere."""


def adapted(model_type: str, **lora: object) -> torch.nn.Module:
    """A small model with an adapter as if trained for a while."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    size = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, **{**size, **heads, **OWN[model_type]})
    base = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    options = {"r": 5, "lora_alpha": 3, "target_modules": "all-linear", **lora}
    model = get_peft_model(base, LoraConfig(**options, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or name.endswith(("bias", "norm.weight")):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def rows_of(prefix: int, own: list[int], seed: int) -> list[TrainRow]:
    chance = torch.Generator().manual_seed(seed)
    begins = torch.randint(1, 97, (prefix,), generator=chance).tolist()
    rows = []
    for length in own:
        ids = [*begins, *torch.randint(1, 97, (length,), generator=chance).tolist()]
        weights = torch.randint(0, 3, (len(ids) - 1,), generator=chance).div(2).tolist()
        rows.append(TrainRow(ids, [*weights, 1.0], "x"))
    return rows


def compared(model: torch.nn.Module, rows: list[TrainRow]) -> tuple[float, float]:
    """Relative differences of loss and gradient, fused against transformers'."""
    batch = packed(rows, 0, "cpu")
    losses = [supervised_loss(model, batch, way) for way in (None, FusedDecoder(model))]
    theirs, ours = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable(model))]) for loss in losses)
    return abs(losses[1].item() / losses[0].item() - 1), ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))
def test_every_architecture_has_the_loss_and_gradient_of_transformers(model_type):
    model = adapted(model_type)
    assert against_fusing(model) is None
    for prefix, own in ((0, [7, 12, 3]), (25, [7, 12, 3, 9]), (9, [2])):
        loss, gradient = compared(model, rows_of(prefix, own, 3))
        assert loss < 1e-5 and gradient < 1e-5


@pytest.fixture(scope="module")
def llama():
    return adapted("llama")


@settings(max_examples=40, deadline=None)
@given(prefix=st.integers(0, 40), own=st.lists(st.integers(2, 20), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_any_packing_has_the_loss_and_gradient_of_transformers(llama, prefix, own, seed):
    loss, gradient = compared(llama, rows_of(prefix, own, seed))
    assert loss < 1e-5 and gradient < 1e-5


@pytest.mark.parametrize("prefix", [0, 9])
@pytest.mark.parametrize("kind", [dense_attention, flash_attention])
def test_attention_is_the_softmax_over_what_a_token_sees_however_large_the_scores(kind, prefix):
    """In float64, where rounding cannot hide a mistake. Short rows are filled up with tokens of another's scores."""
    heads, lengths = Heads(6, 2, 8, 0.3), [2, 19, 3]
    total = prefix + sum(lengths)
    layout = layout_of(prefix, lengths, total, "cpu")
    torch.manual_seed(0)
    qkv = (30 * torch.randn(total, 10, 8, dtype=torch.float64)).requires_grad_()
    out, kept = kind.forward(qkv.detach(), layout, heads)
    gradient = torch.randn_like(out)
    ours = kind.backward(gradient, qkv.detach(), out, kept, layout, heads)
    q, k, v = qkv.transpose(0, 1).split([6, 2, 2])
    scores = 0.3 * q @ k.repeat_interleave(3, 0).transpose(1, 2)
    place = torch.arange(total)
    sees = seeing(prefix, lengths, total, "cpu")(None, None, place[:, None], place[None, :])
    expected = (scores.masked_fill(~sees, -torch.inf).softmax(-1) @ v.repeat_interleave(3, 0)).transpose(0, 1)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    (theirs,) = torch.autograd.grad(expected, qkv, gradient)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-6


def test_written_scores_are_as_exact_in_bfloat16_as_those_of_the_flash_kernel():
    """Keys have much in common, as those of trained models do: scores are large, and their differences count."""
    heads, lengths, shared = Heads(9, 3, 64, 0.125), [20] * 8, 200
    layout = layout_of(shared, lengths, shared + 160, "cpu")
    torch.manual_seed(0)
    exact = 2 * torch.randn(shared + 160, 15, 64)
    exact[:, 9:12] += 8 * torch.randn(1, 3, 64)
    qkv, gradient = exact.bfloat16(), torch.randn(shared + 160, 9, 64).bfloat16()

    def both(kind, qkv):
        out, kept = kind.forward(qkv, layout, heads)
        return out, kind.backward(gradient.to(qkv.dtype), qkv, out, kept, layout, heads)

    expected = both(flash_attention, qkv.double())
    errors = [
        [
            ((found.double() - true).norm() / true.norm()).item()
            for found, true in zip(both(kind, qkv), expected, strict=True)
        ]
        for kind in (dense_attention, flash_attention)
    ]
    assert all(ours < 1.5 * theirs for ours, theirs in zip(*errors, strict=True)), errors


def test_bfloat16_scores_are_written_out_unless_they_are_many(llama, monkeypatch):
    """The same loss both ways, to bfloat16's rounding; float32 is always flash."""
    rows, taken = rows_of(25, [7, 12, 3], 1), []
    for kind in (dense_attention, flash_attention):
        forward = kind.forward
        monkeypatch.setattr(kind, "forward", lambda *args, kind=kind, to=forward: taken.append(kind) or to(*args))
    exact = supervised_loss(llama, packed(rows, 0, "cpu"), FusedDecoder(llama)).item()
    short = adapted("llama").to(torch.bfloat16)
    losses = []
    for most in (packed_attention.SCORES_AT_MOST, 10):
        monkeypatch.setattr(packed_attention, "SCORES_AT_MOST", most)
        losses.append(supervised_loss(short, packed(rows, 0, "cpu"), FusedDecoder(short)).item())
    assert taken == [flash_attention] * 4 + [dense_attention] * 4 + [flash_attention] * 4
    assert losses == pytest.approx([exact, exact], rel=0.02)


@pytest.mark.parametrize("modules", [["q_proj", "v_proj"], ["down_proj"], ["k_proj", "up_proj", "o_proj"]])
def test_layers_without_an_adapter_are_computed_as_they_are(modules):
    loss, gradient = compared(adapted("llama", target_modules=modules), rows_of(11, [5, 8], 0))
    assert loss < 1e-5 and gradient < 1e-5


def test_rank_stabilised_lora_scales_as_peft_does():
    loss, gradient = compared(adapted("llama", use_rslora=True), rows_of(11, [5, 8], 0))
    assert loss < 1e-5 and gradient < 1e-5


def test_weights_that_moved_are_the_ones_computed_with():
    model, rows = adapted("llama"), rows_of(11, [5, 8], 0)
    fused, batch = FusedDecoder(model), packed(rows, 0, "cpu")
    supervised_loss(model, batch, fused)
    # The way an optimizer moves them, which tells nobody.
    optimizer = torch.optim.AdamW(trainable(model), lr=0.1, fused=True)
    supervised_loss(model, batch, fused).backward()
    optimizer.step()
    losses = [supervised_loss(model, batch, way).item() for way in (None, fused)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_model_in_another_number_format_for_a_while_is_computed_in_it():
    """As preflight does; the model's own weights come back."""
    model, rows = adapted("llama").to(torch.bfloat16), rows_of(11, [5, 8], 0)
    fused, batch = FusedDecoder(model), packed(rows, 0, "cpu")
    before = supervised_loss(model, batch, fused).item()
    kept = [(p, p.data) for p in model.parameters()]
    for parameter, data in kept:
        parameter.data = data.float()
    exact = [supervised_loss(model, batch, way).item() for way in (None, fused)]
    for parameter, data in kept:
        parameter.data = data
    assert exact[1] == pytest.approx(exact[0], rel=1e-5)
    assert supervised_loss(model, batch, fused).item() == before
    assert before == pytest.approx(exact[0], rel=0.02)


@pytest.mark.parametrize(
    ("lora", "reason"), [({"use_dora": True}, "DoRA"), ({"lora_dropout": 0.1}, "dropout in the adapter")]
)
def test_what_is_not_known_is_left_to_transformers_with_the_reason(lora, reason):
    way = choose_forward(adapted("llama", **lora), Engine(True, "", 0, "cpu"))
    assert way.fused is None and reason in way.reason


def test_other_architectures_are_left_to_transformers():
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    config = GPTNeoXConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4
    )
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=2, target_modules="all-linear"))
    assert "gpt_neox" in str(against_fusing(model))


def test_many_supervised_tokens_have_the_same_gradient_a_part_at_a_time(llama, monkeypatch):
    rows = rows_of(0, [30, 30], 2)
    whole = supervised_loss(llama, packed(rows, 0, "cpu"))
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(whole, trainable(llama))])
    monkeypatch.setattr("finetune_platform.training.loss.LOGITS_AT_ONCE", 7)
    for way in (None, FusedDecoder(llama)):
        parts = supervised_loss(llama, packed(rows, 0, "cpu"), way)
        found = torch.cat([g.flatten() for g in torch.autograd.grad(parts, trainable(llama))])
        assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
        assert ((found - expected).norm() / expected.norm()).item() < 1e-5


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["fused", "transformers"])
def test_layers_that_are_computed_again_have_the_same_gradient_and_keep_less(lora):
    model, rows = adapted("llama", **lora).train(), rows_of(30, [9, 7, 12], 2)
    forward = choose_forward(model, Engine(True, "", 0, "cpu"))
    assert (forward.fused is None) == bool(lora)
    kept, gradients = [], []
    for choose in (lambda: forward, forward.checkpointed):
        way = choose()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            loss = way.supervised_loss(rows)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable(model))]))
        kept.append(sum(sizes))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert kept[1] < kept[0] / 2
