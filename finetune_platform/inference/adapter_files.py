"""A PEFT folder to the weights of a plain LoRA adapter, or the reason why it is none that rows can mix.

Applying the weights belongs in `mixed_adapters.py`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune_platform.errors import PermanentError

if TYPE_CHECKING:
    import torch

PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base model's weights as they are; PiSSA and its like change them."""

UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "monteclora_config",
    "velora_config",
    "alpha_pattern",
)
"""Keys of `adapter_config.json` that change what the adapter computes."""

MEND = "serve it with vLLM, or train a plain LoRA adapter (rank, alpha, target_modules, use_rslora)"


class AdapterWeights(NamedTuple):
    """A and B of every adapted layer by its name in the base model: (inputs, r) and (r, outputs), scaling in B."""

    pairs: Mapping[str, "tuple[torch.Tensor, torch.Tensor]"]


def read_adapter(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> AdapterWeights:
    """The weights of a LoRA adapter (Hu et al. 2021; `use_rslora`: Kalajdzievski 2023).

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
        shapes: Inputs and outputs of the base model's layers that can be adapted.

    Raises:
        PermanentError: It is no plain LoRA adapter of this base model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise PermanentError(
            f"{folder}: the adapter cannot be read: {error}", "name a folder that PEFT saved"
        ) from error
    _check_kind(folder, config)
    names = _names(folder, tensors, shapes)
    pairs = {}
    for name in sorted(names):
        a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"].float() for part in "AB")
        rank = a.shape[0]
        if (a.shape[1], b.shape[0]) != shapes[name] or b.shape[1] != rank:
            raise PermanentError(
                f"{folder}: {name}: the adapter's weights {tuple(a.shape)} and {tuple(b.shape)} do not fit a layer of "
                f"{shapes[name][0]} inputs and {shapes[name][1]} outputs",
                "the adapter belongs to another base model",
            )
        if not (a.isfinite().all() and b.isfinite().all()):
            raise PermanentError(f"{folder}: {name}: the weights are no finite numbers", "train the adapter again")
        scaling = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
        pairs[name] = (a.T.contiguous(), b.T.contiguous() * scaling)
    return AdapterWeights(pairs)


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    problems = [f"{key}={config[key]!r}" for key in UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA":
        problems.append(f"peft_type={config.get('peft_type')!r}")
    if config.get("bias", "none") != "none":
        problems.append(f"bias={config['bias']!r}")
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        problems.append(f"init_lora_weights={config['init_lora_weights']!r}")
    if problems:
        raise PermanentError(f"{folder}: not supported by the in-process engine: {', '.join(problems)}", MEND)


def _names(folder: Path, tensors: Mapping[str, Any], shapes: Mapping[str, Any]) -> set[str]:
    names = set()
    for key in tensors:
        name, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
        if rest not in ("A.weight", "B.weight"):
            raise PermanentError(f"{folder}: not supported by the in-process engine: weights {key}", MEND)
        if name not in shapes:
            raise PermanentError(
                f"{folder}: not supported by the in-process engine: an adapter on {name}",
                "the adapter belongs to another base model, or changes its embeddings or output layer",
            )
        names.add(name)
    if missing := {f"base_model.model.{n}.lora_{p}.weight" for n in names for p in "AB"} - set(tensors):
        raise PermanentError(f"{folder}: weights {min(missing)} are missing", "copy the adapter again")
    return names
