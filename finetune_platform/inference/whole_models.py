"""Room for one more model: what a whole model takes in memory beside those that are loaded, and whether it is free."""

from pathlib import Path

from finetune_platform.errors import PermanentError
from finetune_platform.inference.precision import Dtype
from finetune_platform.manifests import WHOLE_WEIGHTS

BYTES = {"bfloat16": 2, "float32": 4}


def holds_whole_model(folder: Path) -> bool:
    """Whether a folder of tuned weights holds a model of its own, not an adapter."""
    return (folder / WHOLE_WEIGHTS).is_file()


def require_room(folder: Path, dtype: Dtype, device: str) -> None:
    """Refuses to load what would have the process killed.

    Args:
        folder: Of a whole model.
        dtype: That it is to have.
        device: `cpu` or `cuda`.

    Raises:
        PermanentError: With both figures.
    """
    import psutil
    import torch
    from safetensors import safe_open

    with safe_open(folder / WHOLE_WEIGHTS, framework="numpy") as weights:
        sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - it is no mapping
    needed = BYTES[dtype] * sum(int(torch.Size(size).numel()) for size in sizes)
    free = torch.cuda.mem_get_info()[0] if device.startswith("cuda") else psutil.virtual_memory().available
    if needed > free:
        raise PermanentError(
            f"{folder.name}: all of its weights were trained, so it is loaded beside its base model: that takes "
            f"{needed / 1e9:.1f} GB in {dtype}, and {free / 1e9:.1f} GB are free",
            "free some memory or use a larger machine, or train an adapter (leave training.stages[].peft: null out)",
        )
