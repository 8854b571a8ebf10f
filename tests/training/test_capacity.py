"""A run that would not fit is refused before it starts."""

import shutil

import pytest
from ticket_rows import examples
from transformers import AutoConfig

from finetune_platform.errors import PermanentError, StorageFailed
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.lake import Lake
from finetune_platform.task_training import Lora
from finetune_platform.training import packed_attention
from finetune_platform.training.batches import Step
from finetune_platform.training.capacity import memory_needed, plan_memory, require_disk, require_memory
from finetune_platform.training.engine import Engine
from finetune_platform.training.model import load_for_training
from finetune_platform.training.objectives import Tokens
from finetune_platform.training.rows import TrainRow, tokenise


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)[0]


def test_memory_grows_with_the_largest_pass_and_names_both_figures(model, tiny_model):
    rows = tokenise(examples(8), load_tokenizer(tiny_model), "Name the topic.", 200)
    engine = Engine(False, "", 2, "cpu")
    tokens = Tokens(rows, engine.shapes(rows))
    small, large = (memory_needed(model, tokens, [Step(1.0, (batch,))], engine) for batch in ((0,), tuple(range(8))))
    assert 6 < large / small < 20
    require_memory(large, large, "tiny on cpu")
    with pytest.raises(PermanentError, match=r"tiny on cpu: .* 5\.0 GB .* 1\.0 GB are free"):
        require_memory(5_000_000_000, 1_000_000_000, "tiny on cpu")


def test_what_rows_share_needs_its_memory_once(model):
    rows = [TrainRow([*range(100, 150), i, i + 1], [0.0] * 51 + [1.0], "x") for i in range(8)]
    needed = []
    for packs, tokens in ((True, 50 + 8), (False, 8 * 51)):
        engine = Engine(packs, "", 2, "cpu")
        assert engine.tokens(rows) == tokens
        needed.append(memory_needed(model, Tokens(rows, engine.shapes(rows)), [Step(1.0, (tuple(range(8)),))], engine))
    assert needed[0] < needed[1]


def test_scores_that_fused_layers_write_out_count_in_16_bits_and_of_one_layer_where_layers_are_computed_again(
    tiny_model, monkeypatch
):
    lora, rows = Lora(r=4), [TrainRow([*range(100, 150), i, i + 1], [0.0] * 51 + [1.0], "x") for i in range(8)]
    engine, step = Engine(True, "", 2, "cpu"), Step(1.0, (tuple(range(8)),))
    tokens = Tokens(rows, engine.shapes(rows))

    def needed(most: int, dtype: str, *, again: bool = False) -> int:
        monkeypatch.setattr(packed_attention, "SCORES_AT_MOST", most)
        model = load_for_training(tiny_model, "tiny", lora, dtype=dtype, device="cpu", seed=0)[0]
        return memory_needed(model, tokens, [step], engine, checkpointing=again)

    config = AutoConfig.from_pretrained(tiny_model)
    written = 2 * config.num_attention_heads * (50 * 58 + 8 * 1)
    assert needed(10**6, "bfloat16") - needed(0, "bfloat16") == config.num_hidden_layers * written
    assert needed(10**6, "bfloat16", again=True) - needed(0, "bfloat16", again=True) == written
    assert needed(10**6, "float32") == needed(0, "float32")


def test_short_memory_computes_layers_again_before_it_refuses(model, tiny_model):
    rows = tokenise(examples(8), load_tokenizer(tiny_model), "Name the topic.", 200)
    engine = Engine(True, "", 2, "cpu")
    tokens, plan = Tokens(rows, engine.shapes(rows)), [Step(1.0, (tuple(range(8)),))]
    most = memory_needed(model, tokens, plan, engine)
    assert plan_memory(model, tokens, plan, engine, most) == (most, False)
    less = plan_memory(model, tokens, plan, engine, most - 1)
    assert less.checkpointing and less.needed < most


def test_a_disk_too_small_for_the_checkpoints_is_named(model, tmp_path, monkeypatch):
    lake = Lake(str(tmp_path / "lake"))
    require_disk(model, tmp_path / "work", lake, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(StorageFailed, match=r"work: training keeps up to \d+ MB there, and 0 MB are free"):
        require_disk(model, tmp_path / "work", lake, 2)
