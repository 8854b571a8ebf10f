"""An adapter merged into its base model, or a whole model, and the proof that the result answers as before.

What else an export holds belongs in `export.py`, another file format in `gguf.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.inference.whole_models import holds_whole_model
from finetune_platform.training.golden import first_tokens

Tokens = list[list[int]]

WeightFormat = Literal["bfloat16", "float16", "float32"]


class Parity(NamedTuple):
    """How the golden prompts are answered after a merge, every model computed in float32.

    Attributes:
        prompts: How many there are.
        same: Of them answered with the same tokens as by the adapter beside its base model.
        same_as_trained: Of them answered as by the trainer's own model, in the trainer's number format.
        expected: What the adapter answers.
    """

    prompts: int
    same: int
    same_as_trained: int
    expected: Tokens


def merge(
    base: Path, adapter: Path, target: Path, golden: Sequence[Mapping[str, Any]], dtype: WeightFormat | None
) -> Parity:
    """Writes base model and adapter, or a whole model, as one model in safetensors, reads it back and compares.

    The products of the adapter's matrices are added in float32 and rounded once. Rounding is what can change an
    answer; so the adapter beside its base model and the merged model compute in float32, from the weights as stored.

    Args:
        base: The base model's folder.
        adapter: A PEFT folder, or a whole model's, which needs no base model.
        target: A folder that gets `config.json`, the weights and `generation_config.json`.
        golden: The adapter's golden prompts.
        dtype: Of the weights written; None: those of the model loaded first.

    Raises:
        BadInput: There is no golden prompt to compare by.
        PermanentError: The merged model answers otherwise.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    if not golden:
        raise BadInput(
            f"{adapter.name}: it has no golden prompts, so nothing shows that merging keeps its answers",
            "train on a dataset with a validation split",
        )
    quiet()
    whole = holds_whole_model(adapter)
    source = adapter if whole else base
    plain = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    model = plain if whole else PeftModel.from_pretrained(plain, str(adapter), local_files_only=True)
    expected = answers(model, base, golden)
    merged = model if whole else model.merge_and_unload(safe_merge=True)
    merged.to(getattr(torch, dtype) if dtype else stored_dtype(source))
    merged.generation_config = GenerationConfig.from_pretrained(adapter, local_files_only=True)
    merged.save_pretrained(target)
    del plain, model, merged
    written = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, local_files_only=True)
    return compare(expected, answers(written, base, golden), golden, "the merged model")


def answers(model: Any, tokenizer: Path, golden: Sequence[Mapping[str, Any]]) -> Tokens:
    """The first tokens of a model's answers to the golden prompts."""
    tokens = load_tokenizer(tokenizer)
    return [first_tokens(model, tokens, prompt["messages"], prompt.get("tools")) for prompt in golden]


def compare(expected: Tokens, found: Tokens, golden: Sequence[Mapping[str, Any]], what: str) -> Parity:
    """Counts equal answers.

    Raises:
        PermanentError: Not all are those of the adapter; with the first prompt that is answered otherwise.
    """
    wrong = [n for n, (mine, theirs) in enumerate(zip(found, expected, strict=True), 1) if mine != theirs]
    if wrong:
        raise PermanentError(
            f"{what}: {len(wrong)} of {len(golden)} golden prompts are answered otherwise than by the adapter, "
            f"the first is number {wrong[0]}; nothing was written",
            "write weights that are rounded less: --dtype float32",
        )
    trained = sum(mine == list(prompt["token_ids"]) for mine, prompt in zip(found, golden, strict=True))
    return Parity(len(golden), len(golden) - len(wrong), trained, expected)


def stored_dtype(folder: Path) -> Any:
    """The number format that a model's folder says its weights have."""
    import torch
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True).dtype or torch.float32


def quiet() -> None:
    """Without the libraries' own progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
