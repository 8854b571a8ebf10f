"""The tensors of a forward pass: every token once, every answer predicted from the place before it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.task_training import Lora
from finetune_platform.training.collate import packed, padded, shared_tokens
from finetune_platform.training.families import shapes_of
from finetune_platform.training.loss import supervised_loss
from finetune_platform.training.model import load_for_training, trainable
from finetune_platform.training.packed_attention import BLOCK, _blocks
from finetune_platform.training.rows import TrainRow

TOKENS = st.lists(st.integers(3, 6), min_size=2, max_size=12)


def row(ids, weights=None) -> TrainRow:
    return TrainRow(list(ids), list(weights or [0.0] * (len(ids) - 1) + [1.0]), "x")


def test_padded_reads_no_further_than_it_must():
    rows = [row([5, 6, 7, 8, 9], [0, 0, 1, 0.5, 0]), row([5, 6])]
    batch = padded(rows, pad_token_id=2, device="cpu")
    assert batch.input_ids.tolist() == [[5, 6, 7], [5, 2, 2]]
    assert batch.positions.tolist() == [1, 2, 3]
    assert batch.targets.tolist() == [7, 8, 6]
    assert batch.weights.tolist() == [1, 0.5, 1]


def test_packed_reads_what_rows_share_once():
    rows = [row([1, 2, 3, 7, 8]), row([1, 2, 3, 9]), row([1, 2, 3, 7, 7, 7, 7])]
    batch = packed(rows, pad_token_id=0, device="cpu")
    assert batch.layout.shared == 2  # The last token that every row must read is its own.
    assert batch.input_ids.tolist() == [[1, 2, 3, 7, 3, 3, 7, 7, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 2, 3, 4, 5]]
    assert batch.positions.tolist() == [3, 4, 8]
    assert batch.targets.tolist() == [8, 9, 7]


@settings(max_examples=60, deadline=None)
@given(prefix=st.lists(st.integers(3, 6), max_size=8), own=st.lists(TOKENS, min_size=1, max_size=5), data=st.data())
def test_every_supervised_token_is_predicted_from_the_token_before_it(prefix, own, data):
    rows = []
    for tokens in own:
        ids = [*prefix, *tokens]
        weights = data.draw(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=len(ids) - 1, max_size=len(ids) - 1))
        rows.append(row(ids, [*weights, 1.0]))
    shared = shared_tokens(rows)
    assert all(r.input_ids[:shared] == rows[0].input_ids[:shared] for r in rows)
    batch = packed(rows, 0, "cpu")
    ids, places = batch.input_ids[0].tolist(), batch.position_ids[0].tolist()
    expected = [
        (i - 1, r.input_ids[i - 1], r.input_ids[i], weight)
        for r in rows
        for i, weight in enumerate(r.weights)
        if i and weight
    ]
    assert expected == [
        (places[at], ids[at], target, weight)
        for at, target, weight in zip(
            batch.positions.tolist(), batch.targets.tolist(), batch.weights.tolist(), strict=True
        )
    ]
    assert len(ids) == shared + sum(r.inputs - shared for r in rows)


@pytest.fixture(scope="module")
def models(tiny_model):
    """With adapters as if trained for a while: a fresh adapter's B is zero, which would hide half of the gradient."""
    model, _ = load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@settings(max_examples=25, deadline=None)
@given(prefix=st.integers(0, 40), own=st.lists(st.integers(2, 15), min_size=1, max_size=6), seed=st.integers(0, 3))
def test_loss_and_gradient_of_packed_rows_are_those_of_padded_ones(models, prefix, own, seed):
    chance = torch.Generator().manual_seed(seed)

    def some(count):
        return torch.randint(3, 200, (count,), generator=chance).tolist()

    begins = some(prefix)
    rows = [row([*begins, *some(length)]) for length in own]
    losses = [supervised_loss(models, way(rows, 2, "cpu")) for way in (packed, padded)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    a, b = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable(models))]) for loss in losses)
    assert ((a - b).norm() / b.norm()).item() < 1e-5


def test_the_graphs_mask_says_the_same_as_the_rows_attention(models):
    """FlexAttention runs on a GPU; its mask can be read anywhere."""
    from finetune_platform.training.packed_attention import seeing

    begins = [5, 6, 7]
    rows = [row([*begins, *[10 + i] * n]) for i, n in enumerate((3, 5, 2))]
    batch = packed(rows, 0, "cpu")
    layout, total = batch.layout, batch.input_ids.shape[1]
    lengths = [r.inputs - layout.shared for r in rows]
    sees = seeing(layout.shared, lengths, total + 2, "cpu")
    place = torch.arange(total + 2)
    mask = sees(None, None, place[:, None], place[None, :])
    ids = batch.input_ids[0].tolist()
    for number, r in enumerate(rows):
        start = layout.shared + sum(lengths[:number])
        last = start + lengths[number] - 1
        assert [ids[i] for i in range(total) if mask[last, i]] == r.input_ids[: r.inputs]
    assert not mask[:total, total:].any(), "what fills the last block is seen by nobody"
    assert mask.any(dim=1).all(), "and sees something: no empty softmax"


def test_rows_that_begin_alike_are_a_family():
    one, two = list(range(100, 150)), list(range(200, 250))
    rows = [row([*one, i, 1]) for i in range(8)] + [row([*two, i, 1]) for i in range(8)] + [row([9, 9, 9, 1])]
    shapes = shapes_of(rows, least=4)
    assert [shape.shared for shape in shapes] == [50] * 8 + [50] * 8 + [0]
    families = [shape.family for shape in shapes]
    assert len(set(families[:8])) == len(set(families[8:16])) == 1 and len(set(families)) == 3
    # Too few for batches of their own stay together.
    assert len({shape.family for shape in shapes_of(rows, least=10)}) == 1


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(TOKENS.map(row), min_size=1, max_size=30), least=st.integers(1, 6))
def test_a_family_shares_what_it_says(rows, least):
    shapes = shapes_of(rows, least)
    assert [shape.tokens for shape in shapes] == [r.inputs for r in rows]
    for family in {shape.family for shape in shapes}:
        members = [r for r, shape in zip(rows, shapes, strict=True) if shape.family == family]
        said = {shape.shared for shape in shapes if shape.family == family}
        assert said == {shared_tokens(members)}


@pytest.mark.parametrize(("prefix", "own"), [(25, (7, 12, 3)), (0, (5, 9)), (140, (3, 4, 20))])
def test_flex_attention_gives_the_loss_and_gradient_of_the_rows_attention(models, monkeypatch, prefix, own):
    """A GPU's way, by FlexAttention's own arithmetic; compiled, it runs on a GPU only."""
    from torch.nn.attention import flex_attention
    from transformers.integrations import flex_attention as integration

    chance = torch.Generator().manual_seed(0)
    begins, *rest = (torch.randint(3, 200, (n,), generator=chance).tolist() for n in (prefix, *own))
    batch = packed([row([*begins, *ids]) for ids in rest], 2, "cpu")
    lengths = [prefix + len(ids) - 1 - batch.layout.shared for ids in rest]
    filling = -batch.input_ids.shape[1] % BLOCK
    ids, places = (torch.nn.functional.pad(t, (0, filling)) for t in (batch.input_ids, batch.position_ids))
    blocks = _blocks(batch.layout.shared, lengths, ids.shape[1], "cpu")
    filled = batch._replace(input_ids=ids, position_ids=places, layout=batch.layout._replace(blocks=blocks))
    # It refuses a gradient on a CPU, where only its kernel for one is missing.
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(integration, "WrappedFlexAttention", lambda training: lambda: flex_attention.flex_attention)
    losses = [supervised_loss(models, one) for one in (batch, filled)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    a, b = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable(models))]) for loss in losses)
    assert ((a - b).norm() / a.norm()).item() < 1e-5
