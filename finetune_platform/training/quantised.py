"""A frozen base model whose weights are held in 4 bits (QLoRA, Dettmers et al. 2023): loaded, counted, computed.

What its adapter is worth beside the base model as it is served belongs in `served.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_platform.errors import BadInput
from finetune_platform.task_training import Quantization, Stage

BLOCK = 64
"""Weights that share a scale in float32, as bitsandbytes has it."""

SCALES = 256
"""Scales that share one, where scales are held in 8 bits."""

PLACE = "training.stages[].quantization"


def require_bitsandbytes(stages: Sequence[Stage]) -> None:
    """Asked before anything is fetched.

    Raises:
        BadInput: A stage wants a base model in 4 bits, and bitsandbytes is not installed or too old.
    """
    from transformers.utils import is_bitsandbytes_available

    if any(stage.quantization for stage in stages) and not is_bitsandbytes_available():
        raise BadInput(
            f"{PLACE} needs the package bitsandbytes, which is not installed where this training runs, or too old",
            "pip install 'finetune-platform[qlora]'",
        )


def load_in_4_bits(base_model: Path, quantization: Quantization, device: str, **loading: Any) -> Any:
    """A causal language model whose linear layers, the output layer apart, hold 4 bits a weight.

    They are quantised while they are read, the same each time, where training runs. PEFT's
    `prepare_model_for_kbit_training` is not called: what it does is done elsewhere or not wanted (decision 0024).

    Args:
        base_model: Local folder, not quantised.
        quantization: Of the stage.
        device: `cuda` (this process's) or `cpu`; nothing is held whole there.
        loading: What else `from_pretrained` is told; the number format that is computed in is its `dtype`.

    Raises:
        BadInput: The weights in the folder are quantised already.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    config = AutoConfig.from_pretrained(base_model, local_files_only=True)
    if getattr(config, "quantization_config", None) is not None:
        raise BadInput(
            f"{PLACE}: the weights in {base_model} are quantised already",
            "name the base model that they were made from: it is what the adapter is evaluated and served with",
        )
    model = AutoModelForCausalLM.from_pretrained(
        base_model,
        quantization_config=BitsAndBytesConfig(**quantization.model_dump(), bnb_4bit_compute_dtype=loading["dtype"]),
        device_map={"": torch.cuda.current_device() if device == "cuda" else device},
        **loading,
    )
    for layer in quantised_layers(model):
        # Else the first pass without a gradient would lay the weights out anew on some CPUs, with scales rounded to
        # bfloat16, in a form that lets no gradient through afterwards.
        layer.support_avx512bf16_for_cpu = False
    return model


def in_4_bits(model: Any) -> bool:
    """Whether a model of transformers was loaded so."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def quantised_layers(model: Any) -> list[Any]:
    """The layers of a model of transformers that hold 4 bits a weight, those inside PEFT's layers too."""
    if not in_4_bits(model):
        return []
    from bitsandbytes.nn import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def weights_in(parameter: Any) -> int:
    """How many weights a parameter holds; one in 4 bits has two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else state.shape.numel())


def weights_to_quantise(base: Any) -> int:
    """How many weights of a model of transformers are held in 4 bits, or would be; it may be on the `meta` device."""
    import torch
    from transformers.pytorch_utils import Conv1D

    if in_4_bits(base):
        return sum(weights_in(layer.weight) for layer in quantised_layers(base))
    head = base.get_output_embeddings()
    layers = [module for module in base.modules() if type(module) in (torch.nn.Linear, Conv1D) and module is not head]
    return sum(layer.weight.numel() for layer in layers if not layer.weight.requires_grad)


def bytes_in_4_bits(weights: int, quantization: Quantization) -> int:
    """What so many weights take: half a byte each, and their scales (section 3 of the paper)."""
    scales = weights / BLOCK
    scales *= 1 + 4 / SCALES if quantization.bnb_4bit_use_double_quant else 4
    return round(weights / 2 + scales)


@contextmanager
def computed_in_float32(model: Any) -> Iterator[None]:
    """While it lasts the layers in 4 bits of a model of transformers multiply in float32."""
    import torch

    kept = [(layer, layer.compute_dtype) for layer in quantised_layers(model)]
    try:
        for layer, _ in kept:
            layer.compute_dtype = torch.float32
        yield
    finally:
        for layer, dtype in kept:
            layer.compute_dtype = dtype
