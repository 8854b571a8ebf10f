"""Full fine-tuning: every weight of the base model is trained; a whole model's files stand where an adapter's would.

Here is what then differs from an adapter. Everything else asks `base_of` for the network and is told no difference.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_platform.errors import PermanentError
from finetune_platform.storage_errors import disk_failures
from finetune_platform.training.sharded import part, part_like

if TYPE_CHECKING:
    import torch


def is_whole(model: Any) -> bool:
    """Whether all weights of a model are trained; else it is a PEFT model, whose adapter is."""
    from peft import PeftModel

    return not isinstance(model, PeftModel)


def base_of(model: Any) -> Any:
    """transformers' model: the trained one itself, or that inside a PEFT model."""
    return model if is_whole(model) else model.get_base_model()


def vectors(model: Any) -> list[Any]:
    """The weights of norms and the biases: pulling those towards nothing is no regularisation."""
    return [p for p in model.parameters() if p.ndim < 2]


def save_whole(model: Any, folder: Path, weights: "dict[str, torch.Tensor] | None" = None) -> None:
    """Writes all weights, in one file, and the configuration; equal weights give equal files.

    Args:
        model: Of transformers.
        folder: Which gets the files.
        weights: By name, where the model has parts of them only.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    with disk_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Many a base model's own has options that contradict each other, which transformers refuses to save; the
            # bundle gets one of ours.
            model.generation_config = GenerationConfig()
            model.save_pretrained(folder, max_shard_size="1000TB", state_dict=weights)
        finally:
            model.generation_config = own
        (folder / "generation_config.json").unlink()


def restore_whole(model: Any, folder: Path) -> None:
    """Puts saved weights into a model of the same shape, in its own number format.

    Raises:
        PermanentError: The files are those of another shape.
    """
    import torch
    from transformers import AutoModelForCausalLM

    saved, told = AutoModelForCausalLM.from_pretrained(
        folder, dtype=model.dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    theirs, ours = dict(saved.named_parameters()), dict(model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in ours.items()}
    if told["missing_keys"] or told["mismatched_keys"] or shapes != {n: tuple(p.shape) for n, p in theirs.items()}:
        raise PermanentError(
            f"{folder}: not the weights of this base model: {told}", "train anew from the base model that is named"
        )
    with torch.no_grad():
        for name, parameter in ours.items():
            part(parameter).copy_(part_like(theirs[name], parameter))
