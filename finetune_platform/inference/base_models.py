"""Where a base model comes from: hub, folder, lake or package, to one local folder with a known revision.

Only plain weights enter: safetensors, a tokenizer, a chat template. Nothing from a model folder is executed.
Converting a packaged GGUF file belongs in `gguf_conversion.py`, generating text in `engine.py`.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from finetune_platform.errors import BadInput, Unreachable
from finetune_platform.identity import canonical_json, file_sha256
from finetune_platform.lake import Lake, ObjectInfo
from finetune_platform.manifests import MANIFEST_NAME
from finetune_platform.packages import package_file
from finetune_platform.progress import Report
from finetune_platform.rows import Message
from finetune_platform.task import BaseModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONVERSION_VERSION = "1"
"""Part of a packaged model's revision: raise it when `gguf_conversion` writes different bytes."""

HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "*.txt")

THREE_WAYS = (
    "one of three: reach the network once (the model is then kept in the lake); "
    "or download it elsewhere and set base_model.uri to that local folder; "
    "or copy that folder into the lake and set base_model.uri to lake:base_models/NAME"
)


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
    if ref.uri.startswith("package://"):
        return _packaged(ref, lake, cache_dir, report)
    if ref.uri.startswith("lake:"):
        return _from_lake(ref, lake, ref.uri.removeprefix("lake:").strip("/"), cache_dir, report)
    if "://" in ref.uri:
        parent, _, name = ref.uri.rstrip("/").rpartition("/")
        return _from_lake(ref, Lake(parent), name, cache_dir, report)
    local = (folder / Path(ref.uri).expanduser()).resolve()
    if local.exists() or ref.uri.startswith((".", "/", "~")):
        return _describe(local, ref.name or local.name, _folder_revision(local, ref.uri))
    return _from_hub(ref, lake, cache_dir, report)


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


def count_tokens(model: Path, chats: Sequence[Sequence[dict[str, object]]]) -> list[int]:
    """Tokens of each chat, rendered by the model's template as training renders it."""
    tokenizer = load_tokenizer(model)
    texts = [str(tokenizer.apply_chat_template(list(chat), tokenize=False)) for chat in chats]
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]


def _packaged(ref: BaseModelRef, lake: Lake, cache_dir: Path, report: Report) -> ResolvedModel:
    assert ref.sha256 is not None  # the task model refuses an unpinned package
    name = ref.name or Path(ref.uri).stem
    key = canonical_json({"uri": ref.uri, "sha256": ref.sha256, "conversion": CONVERSION_VERSION})
    revision = hashlib.sha256(key.encode()).hexdigest()[:12]

    def build(target: Path) -> None:
        from finetune_platform.inference.gguf_conversion import convert_gguf

        try:
            source = package_file(ref.uri, ref.sha256 or "", cache_dir, report)
        except Unreachable as error:
            raise Unreachable(f"base_model.uri: {ref.uri}: {error.problem}", THREE_WAYS) from error
        convert_gguf(source, target, report)

    return _kept(lake, cache_dir, name, revision, build, report)


def _from_hub(ref: BaseModelRef, lake: Lake, cache_dir: Path, report: Report) -> ResolvedModel:
    name = ref.name or ref.uri.rpartition("/")[2]
    pin = ref.revision or "main"
    pointer = f"base_models/hub/{ref.uri}@{pin}.json"
    if lake.exists(pointer):
        revision = json.loads(lake.get(pointer))["revision"]
        return _kept(lake, cache_dir, name, revision, lambda target: _download(ref, revision, target, report), report)
    revision = _hub_commit(ref, pin)
    model = _kept(lake, cache_dir, name, revision, lambda target: _download(ref, revision, target, report), report)
    # `main` moves; the task keeps the commit it first saw until base_model.revision says otherwise.
    lake.put_new(pointer, canonical_json({"uri": ref.uri, "revision": revision}).encode())
    return model


def _hub_commit(ref: BaseModelRef, pin: str) -> str:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(ref.uri, revision=pin, timeout=10).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise BadInput(
            f"base_model.uri: {ref.uri}@{pin}: neither a local folder nor a model on the hub",
            "check the id and base_model.revision; a gated model needs HF_TOKEN",
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise Unreachable(f"base_model.uri: {ref.uri}: the model hub does not answer: {error}", THREE_WAYS) from error


def _download(ref: BaseModelRef, revision: str, target: Path, report: Report) -> None:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    report(f"base model: downloading {ref.uri}@{revision[:12]} from the hub")
    try:
        snapshot_download(ref.uri, revision=revision, local_dir=target, allow_patterns=list(HUB_FILES))
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise Unreachable(f"base_model.uri: {ref.uri}: the download failed: {error}", THREE_WAYS) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)


def _kept(
    lake: Lake, cache_dir: Path, name: str, revision: str, build: Callable[[Path], None], report: Report
) -> ResolvedModel:
    """The model `name@revision` from the local cache, else from the lake, else built and published there."""
    path = f"base_models/{name}@{revision}"
    local = cache_dir / path
    if not (local / MANIFEST_NAME).exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f"{name}@{revision}.lock"):
            if not (local / MANIFEST_NAME).exists():
                if not lake.is_published(path):
                    with tempfile.TemporaryDirectory(dir=cache_dir, prefix="base-model-") as temporary:
                        target = Path(temporary) / "model"
                        target.mkdir()
                        build(target)
                        manifest = {"name": name, "revision": revision, "files": _file_hashes(target)}
                        (target / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2))
                        lake.publish(target, path)
                report(f"base model: {name}@{revision[:12]} is in the lake; making the local copy")
                lake.fetch(path, local)
    return _describe(local, name, revision)


def _from_lake(ref: BaseModelRef, lake: Lake, path: str, cache_dir: Path, report: Report) -> ResolvedModel:
    objects = lake.list(path + "/")
    if not objects:
        raise BadInput(f"base_model.uri: {lake.url_of(path)}: nothing is there", THREE_WAYS)
    name = ref.name or path.rpartition("/")[2].partition("@")[0]
    listing = canonical_json([[o.path, o.size, o.etag] for o in objects])
    revision = hashlib.sha256(listing.encode()).hexdigest()[:12]
    local = cache_dir / "base_models" / f"{name}@{revision}"
    local.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{local}.lock"):
        if not local.exists():
            _fetch_objects(objects, path, lake, local, report)
    return _describe(local, name, revision)


def _fetch_objects(objects: Sequence[ObjectInfo], path: str, lake: Lake, local: Path, report: Report) -> None:
    with tempfile.TemporaryDirectory(dir=local.parent) as temporary:
        target = Path(temporary) / "model"
        for count, item in enumerate(objects, 1):
            report(f"base model: fetching {item.path} ({count}/{len(objects)}, {item.size / 1e6:.0f} MB)")
            file = target / item.path.removeprefix(path + "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                stream.writelines(lake.chunks(item.path))
        target.rename(local)


def _describe(local: Path, name: str, revision: str) -> ResolvedModel:
    """Checks that the folder is a usable chat model."""
    if not local.is_dir():
        raise BadInput(f"base_model.uri: {local}: no such folder", THREE_WAYS)
    if not (local / "config.json").exists() or not list(local.glob("*.safetensors")):
        raise BadInput(
            f"base_model.uri: {local}: no config.json with *.safetensors weights",
            "save the model with save_pretrained (safetensors); pickled weights are not loaded",
        )
    template = load_tokenizer(local).chat_template
    if not isinstance(template, str):
        raise BadInput(
            f"base_model.uri: {local}: the tokenizer has no chat template",
            "use an instruct model, or add chat_template.jinja to the folder",
        )
    return ResolvedModel(local, name, revision, hashlib.sha256(template.encode()).hexdigest())


def _folder_revision(local: Path, uri: str) -> str:
    if not local.is_dir():
        raise BadInput(f"base_model.uri: {uri}: no such folder ({local})", THREE_WAYS)
    return hashlib.sha256(canonical_json(_file_hashes(local)).encode()).hexdigest()[:12]


def _file_hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST_NAME)
    return {p.name: file_sha256(p) for p in files}
