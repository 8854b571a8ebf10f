"""The model that is trained: a base model of this machine with a fresh LoRA adapter, and the adapter's files.

Without an adapter all weights are trained: what then differs belongs in `whole_model.py`. Where the base model comes
from belongs in `inference/base_models.py`; moving the weights in `optimizer.py`.
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_platform.errors import BadInput
from finetune_platform.inference.precision import Precision, choose_precision
from finetune_platform.storage_errors import disk_failures
from finetune_platform.task_training import Lora, Quantization
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.quantised import load_in_4_bits
from finetune_platform.training.sharded import mesh_of, shard
from finetune_platform.training.whole_model import base_of, is_whole, restore_whole, save_whole

if TYPE_CHECKING:
    import torch

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def training_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_for_training(
    base_model: Path,
    base_model_name: str,
    lora: Lora | None,
    *,
    dtype: Literal["auto", "bfloat16", "float32"],
    device: str,
    seed: int,
    quantization: Quantization | None = None,
    processes: Processes = ALONE,
) -> tuple[Any, Precision]:
    """A PEFT model whose adapter is new, or a model all of which is trained, and the number format it computes in.

    The adapter has the base model's number format: PEFT would otherwise convert every layer's input and output.

    Args:
        base_model: Local folder.
        base_model_name: What the adapter's files call it.
        lora: Shape of the adapter; None: no adapter.
        dtype: As in the task file.
        device: `cuda` or `cpu`.
        seed: Of the adapter's first weights.
        quantization: How the base model's weights are held; None: in the number format.
        processes: Among which the base model is divided, where it is; they load it one after the other then.

    Raises:
        BadInput: `target_modules` name no layer of this model, or its weights cannot be held so.
        PermanentError: The model cannot be divided.
    """
    precision = choose_precision(dtype, device)

    def load(place: str) -> Any:
        return _load(base_model, base_model_name, lora, precision.dtype, place, seed, quantization)

    if not processes.sharded:
        return load(device), precision
    mesh = mesh_of(device, processes.size)

    def load_part() -> Any:
        model = load("cpu")
        shard(base_of(model), [] if is_whole(model) else trainable(model), device, mesh)
        return model

    return processes.one_by_one(load_part), precision


def _load(
    base_model: Path,
    base_model_name: str,
    lora: Lora | None,
    dtype: str,
    device: str,
    seed: int,
    quantization: Quantization | None,
) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    loading: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "local_files_only": True,
        "attn_implementation": "sdpa",
        "use_safetensors": True,
    }
    if quantization is None:
        base = AutoModelForCausalLM.from_pretrained(base_model, **loading).to(device)
    else:
        base = load_in_4_bits(base_model, quantization, device, **loading)
    torch.manual_seed(seed)
    return base if lora is None else _with_adapter(base, base_model_name, lora)


def skeleton(base_model: Path, base_model_name: str, lora: Lora | None, dtype: Literal["bfloat16", "float32"]) -> Any:
    """The model of `load_for_training` without its weights: their shapes only, on the `meta` device.

    Raises:
        BadInput: `target_modules` name no layer of this model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base_model, local_files_only=True)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        return base if lora is None else _with_adapter(base, base_model_name, lora)


def _with_adapter(base: Any, base_model_name: str, lora: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**lora.model_dump(), task_type="CAUSAL_LM")
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for an attribute that is about to be renamed.
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(base, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise BadInput(
            f"training.stages[0].peft: {base_model_name}: {error}", "name layers of this model, or `all-linear`"
        ) from error
    # PEFT takes the local path and a set, whose order changes from run to run; both end up in the adapter's files.
    config.base_model_name_or_path = base_model_name
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    return model


def trainable(model: Any) -> list[Any]:
    """The adapter's parameters, or all, in the model's own order."""
    return [p for p in model.parameters() if p.requires_grad]


def save_adapter(model: Any, folder: Path, weights: "dict[str, torch.Tensor] | None" = None) -> None:
    """Writes the adapter as PEFT reads it, or the whole model; equal weights give equal files.

    Args:
        model: That was trained.
        folder: Which gets the files.
        weights: All, of a whole model that is divided among processes.
    """
    if is_whole(model):
        save_whole(model, folder, weights)
        return
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = model.peft_config["default"].to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in {**config, "inference_mode": True}.items()}
    # Without this PEFT looks on the hub whether the vocabulary was resized, which it never is here.
    states = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {k: v.detach().cpu().contiguous() for k, v in states.items()}
    with disk_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True, default=str))


def restore_adapter(model: Any, folder: Path) -> None:
    """Puts saved weights into a model that has an adapter of the same shape, or has none as they have none."""
    if is_whole(model):
        restore_whole(model, folder)
        return
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / ADAPTER_WEIGHTS))
