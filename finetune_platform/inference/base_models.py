"""The model that learns: a chat model's local folder with a known revision, its tokenizer, its prompts' tokens.

Where model folders come from stands in `model_folders.py`, generating text in `engine.py`.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.inference.model_folders import ModelFolder, fetch_model, three_ways
from finetune_platform.lake import Lake
from finetune_platform.progress import Report
from finetune_platform.rows import Message
from finetune_platform.task import BaseModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ResolvedModel(NamedTuple):
    """A base model on this machine.

    Attributes:
        path: Local folder with safetensors, tokenizer and chat template.
        name: What manifests and adapters call it.
        revision: Equal revisions are equal weights and tokenizer: a hash of the files, a hub's commit, or, of a folder
            in a bucket, a hash of its listing.
        chat_template_sha256: Must agree between training and serving.
    """

    path: Path
    name: str
    revision: str
    chat_template_sha256: str


def resolve_base_model(ref: BaseModelRef, folder: Path, lake: Lake, cache_dir: Path, report: Report) -> ResolvedModel:
    """The base model of a task as a local folder, fetched or converted at most once.

    Args:
        ref: The task file's `base_model`.
        folder: Where a relative local path starts: the task file's folder.
        lake: Keeps converted and downloaded models under `base_models/`.
        cache_dir: Local copies; safe to delete.
        report: Told of downloads and conversions.

    Raises:
        BadInput: The place holds no usable model.
        Unreachable: Nothing is cached and the network does not answer; names three ways out.
    """
    return _described(fetch_model(ref, folder, lake, cache_dir, report), ref)


@lru_cache(maxsize=4)
def load_tokenizer(model: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a local model folder, with a pad token (the end token where it has none of its own)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def conversation(system_prompt: str, messages: Sequence[Message]) -> list[dict[str, object]]:
    """Messages as a chat template takes them, opened by `system_prompt` unless the row brings its own."""
    plain = [m.plain() for m in messages]
    if not system_prompt or (plain and plain[0]["role"] == "system"):
        return plain
    return [{"role": "system", "content": system_prompt}, *plain]


def count_tokens(model: Path, chats: Sequence[str | Sequence[dict[str, object]]]) -> list[int]:
    """Tokens of each chat, rendered by the model's template as training renders it; of a text, as it is."""
    tokenizer = load_tokenizer(model)
    texts = [
        chat if isinstance(chat, str) else str(tokenizer.apply_chat_template(list(chat), tokenize=False))
        for chat in chats
    ]
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]


def _described(found: ModelFolder, ref: BaseModelRef) -> ResolvedModel:
    """Checks that the folder is a usable chat model."""
    local = found.path
    if not local.is_dir():
        raise BadInput(f"{ref.KEY}.uri: {local}: no such folder", three_ways(ref))
    if not (local / "config.json").exists() or not list(local.glob("*.safetensors")):
        raise BadInput(
            f"{ref.KEY}.uri: {local}: no config.json with *.safetensors weights",
            "save the model with save_pretrained (safetensors); pickled weights are not loaded",
        )
    template = load_tokenizer(local).chat_template
    if not isinstance(template, str):
        raise BadInput(
            f"{ref.KEY}.uri: {local}: the tokenizer has no chat template",
            "use an instruct model, or add chat_template.jinja to the folder",
        )
    return ResolvedModel(*found, hashlib.sha256(template.encode()).hexdigest())
