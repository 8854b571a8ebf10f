"""An adapter fits a base model by the shapes of its layers."""

from pathlib import Path

import pytest
from tiny_adapters import save_adapter

from finetune_platform.inference.adapter_fit import misfit


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_model, tmp_path / "adapter", seed=1)


def llama(**changes: int) -> object:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **{**shape, "num_key_value_heads": 2, **changes}))


def test_other_weights_of_the_same_shape_fit(adapter: Path) -> None:
    assert misfit(adapter, llama()) == ""
    assert misfit(adapter, llama(num_hidden_layers=3)) == "", "a layer more is no obstacle"


def test_what_does_not_fit_is_told_by_layer(adapter: Path) -> None:
    assert misfit(adapter, llama(num_hidden_layers=1)).startswith("the base model has no layer model.layers.1.")
    assert misfit(adapter, llama(hidden_size=96)).endswith(
        ("has 96 inputs, the adapter 64", "has 96 outputs, the adapter 64")
    )
    assert ", the adapter 128" in misfit(adapter, llama(intermediate_size=160))
