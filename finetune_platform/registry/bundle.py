"""The immutable bundle: everything that serves an adapter, in plain files, at its content address.

Only data enters: safetensors, JSON, Jinja, Markdown and text. What the registry does with a bundle belongs in
`register.py`, the words of its card in `card.py`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from finetune_platform.errors import PermanentError
from finetune_platform.identity import content_id, folder_sha256
from finetune_platform.inference.base_models import ResolvedModel, load_tokenizer
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, WHOLE_CONFIG, WHOLE_WEIGHTS, expect_same
from finetune_platform.manifests_training import TrainingManifest

WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
CARD_NAME = "card.md"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
"""What is copied where the base model has it; `tokenizer.model` is a binary that `tokenizer.json` replaces."""

SUFFIXES = {".safetensors", ".json", ".jinja", ".md", ".txt"}
"""Nothing else enters a bundle: no code, no pickle."""


def build_bundle(
    folder: Path, lake: Lake, training: TrainingManifest, base_model: ResolvedModel, max_new_tokens: int
) -> dict[str, str]:
    """Writes a bundle's content (all but card and manifest) and checks it.

    Args:
        folder: An empty folder.
        lake: Holds an adapter's or a whole model's files as training saved them.
        training: The run that made them.
        base_model: Gives tokenizer and chat template.
        max_new_tokens: Longest answer, in tokens.

    Returns:
        SHA-256 of every file by its name.

    Raises:
        PermanentError: A file is missing, or is not what its name says.
        BadInput: The tokenizer's chat template is not the one trained with.
    """
    if training.is_whole:
        for name in (WHOLE_WEIGHTS, WHOLE_CONFIG):
            _copy_trained(lake, training, name, folder)
    else:
        _copy_trained(lake, training, WEIGHTS, folder)
        _copy_trained(lake, training, ADAPTER_CONFIG, folder)
        stored = (folder / ADAPTER_CONFIG).read_bytes()
        _write_json(folder / ADAPTER_CONFIG, _adapter_config(stored, training))
    _write_tokenizer(folder, training, base_model)
    _write_json(folder / "generation_config.json", _generation_config(base_model, max_new_tokens))
    check_only_data(folder, training)
    return folder_sha256(folder)


def adapter_id_of(files: dict[str, str]) -> str:
    """The bundle's content address."""
    return content_id("ad", {name: sha for name, sha in files.items() if name not in (CARD_NAME, MANIFEST_NAME)})


def check_only_data(folder: Path, training: TrainingManifest) -> None:
    """Refuses anything that could be executed: by suffix, and weights by their header.

    Raises:
        PermanentError: Naming the file.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.suffix in SUFFIXES:
            continue
        raise PermanentError(f"{path.name}: a bundle holds only {', '.join(sorted(SUFFIXES))}", _train_again(training))
    weights = WHOLE_WEIGHTS if training.is_whole else WEIGHTS
    try:
        with safe_open(folder / weights, framework="numpy") as tensors:
            names = list(tensors.keys())
    except SafetensorError as error:
        raise PermanentError(f"{weights}: not a safetensors file: {error}", _train_again(training)) from error
    if not names:
        raise PermanentError(f"{weights}: holds no tensors", _train_again(training))


def _copy_trained(lake: Lake, training: TrainingManifest, name: str, folder: Path) -> None:
    path = f"{training.path}/adapter/{name}"
    try:
        with (folder / name).open("wb") as stream:
            stream.writelines(lake.chunks(path))
    except FileNotFoundError as error:
        raise PermanentError(f"{lake.url_of(path)}: not there", _train_again(training)) from error


def _adapter_config(stored: bytes, training: TrainingManifest) -> dict[str, Any]:
    # PEFT writes the trainer's local folder here: it would leak a path and give every machine another id.
    config: dict[str, Any] = json.loads(stored)
    return {**config, "base_model_name_or_path": training.base_model, "inference_mode": True}


def _write_tokenizer(folder: Path, training: TrainingManifest, base_model: ResolvedModel) -> None:
    expect_same(
        "the chat template's sha256", training.chat_template_sha256, base_model.chat_template_sha256, base_model.name
    )
    for name in TOKENIZER_FILES:
        if (base_model.path / name).is_file():
            shutil.copyfile(base_model.path / name, folder / name)
    if not (folder / "tokenizer.json").exists():
        raise PermanentError(
            f"{base_model.path}/tokenizer.json: not there",
            "save the base model's fast tokenizer into that folder with save_pretrained",
        )
    (folder / "chat_template.jinja").write_bytes(str(load_tokenizer(base_model.path).chat_template).encode())


def _generation_config(base_model: ResolvedModel, max_new_tokens: int) -> dict[str, Any]:
    tokenizer = load_tokenizer(base_model.path)
    path = base_model.path / "generation_config.json"
    stored = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.exists() else None
    ends = stored if isinstance(stored, list) else [stored]
    eos = sorted({token for token in (*ends, tokenizer.eos_token_id) if token is not None})
    return {
        "do_sample": False,
        "max_new_tokens": max_new_tokens,
        "eos_token_id": eos[0] if len(eos) == 1 else eos,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _train_again(training: TrainingManifest) -> str:
    return f"train again with `finetune run {training.task} --from trained_adapter --force`"
