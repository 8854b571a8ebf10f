"""Where a model comes from: hub, folder, lake or package, to one local folder with a known revision.

Only plain weights enter: safetensors, a tokenizer, a chat template. Nothing from a model folder is executed.
Converting a packaged GGUF file belongs in `gguf_conversion.py`; whether a folder is a usable chat model or sentence
encoder is judged in `base_models.py` and `embedder.py`.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock

from finetune_platform.errors import BadInput, Unreachable
from finetune_platform.identity import canonical_json, file_sha256
from finetune_platform.lake import Lake, ObjectInfo
from finetune_platform.manifests import MANIFEST_NAME
from finetune_platform.model_ref import ModelRef
from finetune_platform.packages import package_file, package_folder
from finetune_platform.progress import Report

CONVERSION_VERSION = "1"
"""Part of a packaged model's revision: raise it when `gguf_conversion` writes different bytes."""

HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "*.txt")


Place = Literal["hub", "folder", "lake", "package"]


class ModelFolder(NamedTuple):
    """A model on this machine.

    Attributes:
        path: Local folder with its files.
        name: What manifests call it.
        revision: Equal revisions are equal weights and tokenizer: a hash of the files, a hub's commit, or, of a folder
            in a bucket, a hash of its listing.
    """

    path: Path
    name: str
    revision: str


def three_ways(ref: ModelRef) -> str:
    """What a user can do who cannot reach a model."""
    return (
        "one of three: reach the network once (the model is then kept in the lake); "
        f"or download it elsewhere and set {ref.KEY}.uri to that local folder; "
        f"or copy that folder into the lake and set {ref.KEY}.uri to lake:base_models/NAME"
    )


def fetch_model(ref: ModelRef, folder: Path, lake: Lake, cache_dir: Path, report: Report) -> ModelFolder:
    """The named model as a local folder, fetched or converted at most once.

    Args:
        ref: How the task file names it.
        folder: Where a relative local path starts: the task file's folder.
        lake: Keeps converted and downloaded models under `base_models/`.
        cache_dir: Local copies; safe to delete.
        report: Told of downloads and conversions.

    Raises:
        BadInput: Nothing is at that place.
        Unreachable: Nothing is cached and the network does not answer; names three ways out.
    """
    kind = place_of(ref, folder)
    if kind == "package":
        return _packaged(ref, lake, cache_dir, report)
    if kind == "lake":
        return _from_lake(ref, *_in_lake(ref, lake), cache_dir, report)
    if kind == "folder":
        local = (folder / Path(ref.uri).expanduser()).resolve()
        return ModelFolder(local, ref.name or local.name, _folder_revision(local, ref))
    return _from_hub(ref, lake, cache_dir, report)


def place_of(ref: ModelRef, folder: Path) -> Place:
    """What kind of place a reference names; buckets count as lakes.

    Args:
        folder: Where a relative local path starts.
    """
    if ref.uri.startswith("package://"):
        return "package"
    if ref.uri.startswith("lake:") or "://" in ref.uri:
        return "lake"
    local = folder / Path(ref.uri).expanduser()
    return "folder" if local.exists() or ref.uri.startswith((".", "/", "~")) else "hub"


def lake_revision(ref: ModelRef, lake: Lake) -> str:
    """The revision of a model in the lake or in a bucket, without fetching it.

    Raises:
        BadInput: Nothing is there.
        Unreachable: The bucket does not answer.
    """
    return _listed(ref, *_in_lake(ref, lake))[1]


def _packaged(ref: ModelRef, lake: Lake, cache_dir: Path, report: Report) -> ModelFolder:
    """A GGUF file of a package, converted, or a folder of a package as it is."""
    assert ref.sha256 is not None  # the task model refuses an unpinned package
    name = ref.name or Path(ref.uri).stem
    gguf = {"conversion": CONVERSION_VERSION} if ref.uri.endswith(".gguf") else {}
    key = canonical_json({"uri": ref.uri, "sha256": ref.sha256, **gguf})
    revision = hashlib.sha256(key.encode()).hexdigest()[:12]

    def build(target: Path) -> None:
        from finetune_platform.inference.gguf_conversion import convert_gguf

        take = package_file if gguf else package_folder
        try:
            source = take(ref.uri, ref.sha256 or "", cache_dir, report)
        except Unreachable as error:
            raise Unreachable(f"{ref.KEY}.uri: {ref.uri}: {error.problem}", three_ways(ref)) from error
        if gguf:
            convert_gguf(source, target, report)
        else:
            shutil.copytree(source, target, dirs_exist_ok=True)

    return _kept(lake, cache_dir, name, revision, build, report)


def _from_hub(ref: ModelRef, lake: Lake, cache_dir: Path, report: Report) -> ModelFolder:
    name = ref.name or ref.uri.rpartition("/")[2]
    pin = ref.revision or "main"
    pointer = f"base_models/hub/{ref.uri}@{pin}.json"
    if lake.exists(pointer):
        revision = json.loads(lake.get(pointer))["revision"]
        return _kept(lake, cache_dir, name, revision, lambda target: _download(ref, revision, target, report), report)
    revision = hub_commit(ref, pin)
    model = _kept(lake, cache_dir, name, revision, lambda target: _download(ref, revision, target, report), report)
    # `main` moves; the task keeps the commit it first saw until its revision says otherwise.
    lake.put_new(pointer, canonical_json({"uri": ref.uri, "revision": revision}).encode())
    return model


def hub_commit(ref: ModelRef, pin: str) -> str:
    """The commit that a branch, a tag or a commit of a hub model is now.

    Raises:
        BadInput: The hub has no such model or revision.
        Unreachable: It does not answer; names three ways out.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(ref.uri, revision=pin, timeout=10).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise BadInput(
            f"{ref.KEY}.uri: {ref.uri}@{pin}: neither a local folder nor a model on the hub",
            f"check the id and {ref.KEY}.revision; a gated model needs HF_TOKEN",
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        problem = f"{ref.KEY}.uri: {ref.uri}: the model hub does not answer: {error}"
        raise Unreachable(problem, three_ways(ref)) from error


def _download(ref: ModelRef, revision: str, target: Path, report: Report) -> None:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    report(f"model: downloading {ref.uri}@{revision[:12]} from the hub")
    try:
        snapshot_download(ref.uri, revision=revision, local_dir=target, allow_patterns=list(HUB_FILES))
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise Unreachable(f"{ref.KEY}.uri: {ref.uri}: the download failed: {error}", three_ways(ref)) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)


def _kept(
    lake: Lake, cache_dir: Path, name: str, revision: str, build: Callable[[Path], None], report: Report
) -> ModelFolder:
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
                report(f"model: {name}@{revision[:12]} is in the lake; making the local copy")
                lake.fetch(path, local)
    return ModelFolder(local, name, revision)


def _in_lake(ref: ModelRef, lake: Lake) -> tuple[Lake, str]:
    """The lake or bucket of a reference, and the folder in it."""
    if ref.uri.startswith("lake:"):
        return lake, ref.uri.removeprefix("lake:").strip("/")
    parent, _, name = ref.uri.rstrip("/").rpartition("/")
    return Lake(parent), name


def _listed(ref: ModelRef, lake: Lake, path: str) -> tuple[Sequence[ObjectInfo], str]:
    """The files of a model in a lake, and its revision."""
    objects = lake.list(path + "/")
    if not objects:
        raise BadInput(f"{ref.KEY}.uri: {lake.url_of(path)}: nothing is there", three_ways(ref))
    listing = canonical_json([[o.path, o.size, o.etag] for o in objects])
    return objects, hashlib.sha256(listing.encode()).hexdigest()[:12]


def _from_lake(ref: ModelRef, lake: Lake, path: str, cache_dir: Path, report: Report) -> ModelFolder:
    objects, revision = _listed(ref, lake, path)
    name = ref.name or path.rpartition("/")[2].partition("@")[0]
    local = cache_dir / "base_models" / f"{name}@{revision}"
    local.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{local}.lock"):
        if not local.exists():
            _fetch_objects(objects, path, lake, local, report)
    return ModelFolder(local, name, revision)


def _fetch_objects(objects: Sequence[ObjectInfo], path: str, lake: Lake, local: Path, report: Report) -> None:
    with tempfile.TemporaryDirectory(dir=local.parent) as temporary:
        target = Path(temporary) / "model"
        for count, item in enumerate(objects, 1):
            report(f"model: fetching {item.path} ({count}/{len(objects)}, {item.size / 1e6:.0f} MB)")
            file = target / item.path.removeprefix(path + "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                stream.writelines(lake.chunks(item.path))
        target.rename(local)


def _folder_revision(local: Path, ref: ModelRef) -> str:
    if not local.is_dir():
        raise BadInput(f"{ref.KEY}.uri: {ref.uri}: no such folder ({local})", three_ways(ref))
    return hashlib.sha256(canonical_json(_file_hashes(local)).encode()).hexdigest()[:12]


def _file_hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST_NAME)
    return {p.name: file_sha256(p) for p in files}
