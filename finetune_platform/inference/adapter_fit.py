"""Whether a LoRA adapter's weights have the shapes of a base model's layers; no more is said by that."""

from pathlib import Path
from typing import Any

from finetune_platform.manifests import WHOLE_WEIGHTS

PREFIX = "base_model.model."


def misfit(adapter: Path, base: Any) -> str:
    """Why an adapter cannot be put on a base model; "" where it can.

    Args:
        adapter: A PEFT folder, or a whole model's.
        base: The model, a torch module.
    """
    from safetensors import safe_open

    if (adapter / WHOLE_WEIGHTS).exists():
        return "all of its weights were trained, so it stands on no base model"
    layers = dict(base.named_modules())
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as weights:
        for name in weights.keys():  # noqa: SIM118 - it is no mapping
            layer, _, matrix = name.removeprefix(PREFIX).rpartition(".lora_")
            if not layer:
                continue
            if layer not in layers:
                return f"the base model has no layer {layer}"
            # lora_A is (rank, inputs), lora_B (outputs, rank); a layer's weight is (outputs, inputs).
            axis = 1 if matrix.startswith("A") else 0
            has, needs = weights.get_slice(name).get_shape()[axis], layers[layer].weight.shape[axis]
            if has != needs:
                return f"{layer} has {needs} {'inputs' if axis else 'outputs'}, the adapter {has}"
    return ""
