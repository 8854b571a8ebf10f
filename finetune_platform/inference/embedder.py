"""Sentences to vectors: a local transformers encoder, mean-pooled, rows of length one.

Whoever compares texts by meaning (retrieval, drift, choosing rows for experts) asks here. Fetching a model belongs in
`model_folders.py`; what is done with vectors belongs to whoever asked.
"""

import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id, file_sha256
from finetune_platform.inference.model_folders import fetch_model
from finetune_platform.inference.precision import Dtype, choose_precision
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME
from finetune_platform.model_ref import EmbedderRef
from finetune_platform.progress import Report

if TYPE_CHECKING:
    import numpy as np
    import torch

WEIGHING_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Files of a model folder that can change a vector; a README does not."""

MODULES = ("Transformer", "Pooling", "Normalize")
BATCH_TOKENS = 8192
"""Tokens of a batch, padding included: large enough for full speed on a CPU, some 100 MB of activations."""

MEND = "use a mean-pooled sentence encoder with safetensors weights, such as all-MiniLM-L6-v2"


class Embedder:
    """A loaded embedding model. One may be shared by threads.

    Attributes:
        id: `em-…`, a hash of the folder's weights, tokenizer and settings and of the number format: vectors compare
            only where it is equal.
        dimension: Numbers of a vector.
        max_tokens: What of a text is read; the rest is cut off.
    """

    def __init__(
        self, folder: Path, dtype: Literal["auto", "bfloat16", "float32"] = "float32", device: str = "cpu"
    ) -> None:
        """Loads the model that lies in `folder` (config, tokenizer, safetensors); nothing in it is executed.

        Args:
            folder: A local folder, as `fetch_embedder` gives it.
            dtype: `auto` takes bfloat16 where the processor multiplies it natively: faster, cosines off by up to 0.01.
                float32 gives the same vectors everywhere, to rounding.
            device: A torch device.

        Raises:
            BadInput: The folder holds no model of this kind.
        """
        _expect_mean_pooling(folder)
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        chosen = choose_precision(dtype, device).dtype
        self._device = device
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=getattr(torch, chosen)
        )
        self._model.to(device).eval()
        # A fast tokenizer sets its truncation at every call and refuses a second thread meanwhile.
        self._tokenizing = threading.Lock()
        self.dimension = int(self._model.config.hidden_size)
        self.max_tokens = _longest(folder, self._tokenizer.model_max_length, self._model.config)
        self.id = embedder_id(folder, chosen)

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Vectors of texts, in the texts' order.

        Texts of like length share a batch, so little is computed for padding; the same texts give the same bits. Of a
        text longer than `max_tokens` the beginning counts.

        Args:
            texts: Any strings, empty ones too.

        Returns:
            float32, shape `(len(texts), dimension)`, rows of length one: their dot products are cosines.

        Source: Reimers and Gurevych, Sentence-BERT (2019), mean pooling over the last hidden states.
        """
        import numpy as np

        tokens = self._tokens(texts)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for rows in _batches([len(ids) for ids in tokens]):
            vectors[rows] = self._pooled([tokens[row] for row in rows]).numpy()
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, of which `embed` reads `max_tokens` at most."""
        with self._tokenizing:
            encoded = self._tokenizer(list(texts), truncation=False, padding=False, verbose=False) if texts else None
        return [len(ids) for ids in encoded.input_ids] if encoded else []

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        with self._tokenizing:
            encoded = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens, padding=False)
        ids: list[list[int]] = encoded.input_ids
        return ids

    def _pooled(self, tokens: Sequence[Sequence[int]]) -> "torch.Tensor":
        """Unit-length means of the last hidden states, padding left out; float32 `(rows, dimension)` on the CPU."""
        import torch

        width = max(1, *(len(ids) for ids in tokens))
        input_ids = torch.full((len(tokens), width), self._tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(tokens), width), dtype=torch.long)
        for row, ids in enumerate(tokens):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        mask = mask.to(self._device)
        with torch.inference_mode():
            hidden = self._model(input_ids=input_ids.to(self._device), attention_mask=mask).last_hidden_state.float()
            weights = mask.unsqueeze(-1).float()
            mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
            return torch.nn.functional.normalize(mean, dim=1).cpu()


def fetch_embedder(ref: EmbedderRef, folder: Path, lake: Lake, cache_dir: Path, report: Report) -> Path:
    """The local folder of a sentence encoder, fetched at most once; arguments and errors are those of `fetch_model`.

    Raises:
        BadInput: Also where the folder holds no model that `Embedder` reads.
    """
    found = fetch_model(ref, folder, lake, cache_dir, report).path
    _expect_mean_pooling(found)
    return found


@lru_cache(maxsize=2)
def load_embedder(folder: Path) -> Embedder:
    """The model of a folder in float32 on the processor, loaded once a process."""
    return Embedder(folder)


def embedder_id(folder: Path, dtype: Dtype = "float32") -> str:
    """What `Embedder.id` will be, without loading the model."""
    return content_id("em", {"files": _file_hashes(folder), "dtype": dtype})


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Row numbers, longest first, in groups of at most `BATCH_TOKENS` tokens with their padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        widest = max(1, lengths[batches[-1][0]]) if batches else 0
        if not batches or (len(batches[-1]) + 1) * widest > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches


def _longest(folder: Path, tokenizer_limit: int, config: Any) -> int:
    """Tokens that the model was made for: the smallest of what its files say."""
    settings = _json(folder / "sentence_bert_config.json")
    limits = [tokenizer_limit, getattr(config, "max_position_embeddings", 512)]
    if settings.get("max_seq_length"):
        limits.append(int(settings["max_seq_length"]))
    return min(limits)


def _expect_mean_pooling(folder: Path) -> None:
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise BadInput(f"{folder}: no config.json with *.safetensors weights", MEND)
    modules = _json(folder / "modules.json") or []
    for module in modules:
        kind = str(module["type"]).rpartition(".")[2]
        if kind not in MODULES:
            raise BadInput(f"{folder}: the model ends in a {kind} layer, which is not read here", MEND)
    pooling = _json(folder / "1_Pooling" / "config.json")
    if pooling and not pooling.get("pooling_mode_mean_tokens", False):
        raise BadInput(f"{folder}: the model does not pool by the mean of its tokens", MEND)


def _json(file: Path) -> Any:
    return json.loads(file.read_text()) if file.is_file() else {}


def _file_hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.suffix in WEIGHING_SUFFIXES and p.name != MANIFEST_NAME)
    return {p.relative_to(folder).as_posix(): file_sha256(p) for p in files}
