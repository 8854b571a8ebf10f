"""The engine's forward pass against transformers' own, for every architecture that it says it knows."""

from pathlib import Path
from typing import Any

import pytest

from finetune_platform.errors import PermanentError
from finetune_platform.inference.decoder import MODEL_TYPES
from finetune_platform.inference.ragged_model import RaggedModel, Work

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
OWN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mistral": {"sliding_window": None, "head_dim": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "smollm3": {"no_rope_layer_interval": 2},
}
ROWS = ([3, 14, 15, 92, 65, 35], [8], [9, 79, 32])


def saved(folder: Path, kind: str, **options: Any) -> Any:
    """A small model with random weights, in a folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, "pad_token_id": 0, "eos_token_id": 1, **options})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def test_every_architecture_is_compared() -> None:
    assert OWN.keys() == MODEL_TYPES


@pytest.mark.parametrize("kind", sorted(OWN))
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    import torch

    theirs = saved(tmp_path, kind, **OWN[kind])
    ours = RaggedModel(tmp_path, "float32", "cpu", max_rows=4, max_tokens=256)
    with torch.inference_mode():
        slots = [ours.cache.acquire(16) or 0 for _ in ROWS]
        first = ours.forward([Work(None, slot, 0, row, True) for slot, row in zip(slots, ROWS, strict=True)])
        # Then one row reads on while the others write.
        more = ([5, 6, 7], [2], [4])
        then = ours.forward(
            [Work(None, slot, len(row), new, True) for slot, row, new in zip(slots, ROWS, more, strict=True)]
        )
        for row, new, logits, later in zip(ROWS, more, first, then, strict=True):
            expected = theirs(input_ids=torch.tensor([[*row, *new]])).logits[0]
            torch.testing.assert_close(logits, expected[len(row) - 1], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(later, expected[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt_neox", {}),
        ("llama", {"hidden_act": "gelu"}),
        ("mistral", {"sliding_window": 8}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ],
)
def test_other_architectures_are_refused_before_weights_are_read(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    saved(tmp_path, kind, **options)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(PermanentError, match="does not know"):
        RaggedModel(tmp_path, "float32", "cpu", max_rows=4, max_tokens=256)
