"""A run that would not fit is refused before it starts."""

import shutil

import pytest
from ticket_rows import examples

from finetune_platform.errors import PermanentError, StorageFailed
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.lake import Lake
from finetune_platform.task import Lora
from finetune_platform.training.batches import Step
from finetune_platform.training.capacity import memory_needed, require_disk, require_memory
from finetune_platform.training.model import load_for_training
from finetune_platform.training.rows import tokenise


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_for_training(tiny_model, "tiny", Lora(r=4), dtype="float32", device="cpu", seed=0)[0]


def test_memory_grows_with_the_largest_pass_and_names_both_figures(model, tiny_model):
    rows = tokenise(examples(8), load_tokenizer(tiny_model), "Name the topic.", 200)
    small, large = (memory_needed(model, rows, [Step(1.0, (batch,))]) for batch in ((0,), tuple(range(8))))
    assert 6 < large / small < 20
    require_memory(large, large, "tiny on cpu")
    with pytest.raises(PermanentError, match=r"tiny on cpu: .* 5\.0 GB .* 1\.0 GB are free"):
        require_memory(5_000_000_000, 1_000_000_000, "tiny on cpu")


def test_a_disk_too_small_for_the_checkpoints_is_named(model, tmp_path, monkeypatch):
    lake = Lake(str(tmp_path / "lake"))
    require_disk(model, tmp_path / "work", lake, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(StorageFailed, match=r"work: training keeps up to \d+ MB there, and 0 MB are free"):
        require_disk(model, tmp_path / "work", lake, 2)
