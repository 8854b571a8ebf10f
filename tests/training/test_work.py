"""The counted arithmetic of a run is what torch counts when it is done."""

import pytest
from ticket_rows import examples

from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.task_training import Lora
from finetune_platform.training.batches import Step
from finetune_platform.training.capacity import memory_needed
from finetune_platform.training.engine import Engine, choose_engine
from finetune_platform.training.loss import supervised_loss
from finetune_platform.training.model import load_for_training, skeleton
from finetune_platform.training.objectives import Tokens
from finetune_platform.training.rows import tokenise
from finetune_platform.training.work import network_of, work_of

ENGINE = Engine(True, "", 2, "cpu")


def tokens(rows):
    return Tokens(rows, ENGINE.shapes(rows))


PLAN = [Step(1.0, (tuple(range(8)),))]


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)[0]


@pytest.mark.parametrize("packs", [True, False])
def test_operations_are_those_that_torch_counts(model, tiny_model, packs):
    from torch.utils.flop_counter import FlopCounterMode

    tokenizer = load_tokenizer(tiny_model)
    rows = tokenise(examples(8), tokenizer, "Name the topic of each ticket. " * 10, 600)
    engine = choose_engine(tiny_model, rows, tokenizer.pad_token_id, "cpu")._replace(packs=packs)
    with FlopCounterMode(display=False) as counted:
        supervised_loss(model, engine.batch(rows)).backward()
    work = work_of(network_of(model), PLAN, tokens(rows), packs, None, 10)
    # torch counts no attention on a CPU, and the first layer passes no gradient on to the frozen embeddings.
    assert 1.0 < work.flops / counted.get_total_flops() < 1.5
    assert work.tokens == engine.batch(rows).input_ids.numel()


def test_a_skeleton_gives_the_same_figures_as_the_model_with_its_weights(model, tiny_model):
    bare = skeleton(tiny_model, "tiny", Lora(r=4), "float32")
    assert network_of(bare) == network_of(model) and {p.device.type for p in bare.parameters()} == {"meta"}
    assert network_of(model).parameters == sum(p.numel() for p in model.get_base_model().parameters()) - (
        network_of(model).adapter
    )
    rows = tokenise(examples(8), load_tokenizer(tiny_model), "Name the topic.", 200)
    assert memory_needed(bare, tokens(rows), PLAN, ENGINE) == memory_needed(model, tokens(rows), PLAN, ENGINE)


def test_validation_is_counted_as_often_as_it_is_measured(model, tiny_model):
    rows = tokenise(examples(8), load_tokenizer(tiny_model), "Name the topic.", 200)
    once = work_of(network_of(model), PLAN * 10, tokens(rows), True, tokens(rows), 10).validation_flops
    assert once > 0
    assert work_of(network_of(model), PLAN * 10, tokens(rows), True, tokens(rows), 4).validation_flops == 3 * once
    assert work_of(network_of(model), PLAN * 10, tokens(rows), True, None, 4).validation_flops == 0
