"""Objects and tables at `LAKE_URL`: the same calls, the same promises, on a folder and in a bucket.

Where an artifact lives and what is in it is the business of `manifests.py`; small mutable state belongs in
`database.py`. A folder of the lake exists for readers once its `manifest.json` does, and never changes after.
"""

import errno
import fnmatch
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import obstore
from obstore import exceptions as obstore_errors
from pydantic import ValidationError

from finetune_platform.errors import BadInput, FinetuneError
from finetune_platform.manifests import MANIFEST_NAME, M
from finetune_platform.object_store import open_store, parse_url, table_options
from finetune_platform.storage_errors import disk_failures, error_number, storage_failure

if TYPE_CHECKING:
    import daft
    import pyarrow as pa
    from deltalake import DeltaTable

TRANSFERS = 4
"""Files of one folder that travel at the same time, and parts of one large file."""

APPEND_ATTEMPTS = 5


class ObjectInfo(NamedTuple):
    """One object: `path` relative to the lake's root, `size` in bytes, `etag` changes with the content."""

    path: str
    size: int
    etag: str


class Once(NamedTuple):
    """Marks an append so that it happens once: who appends, and a number that only rises for them in that table."""

    writer: str
    number: int


class Lake:
    """Files and tables below one address.

    Args:
        url: A folder (made on first use), `file://…`, `s3://bucket/prefix`, `gs://…`, `az://…` or `abfss://…`.
            Buckets take credentials, region and endpoint from their provider's usual variables and profiles.

    Every method raises, besides what it names: `BadInput` for a path that leaves the lake, `Unreachable` where the
    server does not answer within about ten seconds or refuses, `StorageFailed` where the disk does.
    """

    def __init__(self, url: str) -> None:
        self.url, self._folder = parse_url(url)

    def url_of(self, path: str) -> str:
        """Where `path` lies: an absolute file path, or a URL in the bucket."""
        return f"{self.url}/{_checked(path)}" if path else self.url

    def put(self, path: str, data: bytes) -> None:
        """Writes an object whole, over what was there."""
        with self._failures(path):
            obstore.put(self._store, _checked(path), data)

    def put_new(self, path: str, data: bytes) -> bool:
        """Writes an object unless it exists; of several writers exactly one gets True."""
        with self._failures(path):
            try:
                obstore.put(self._store, _checked(path), data, mode="create")
            except obstore_errors.AlreadyExistsError:
                return False
            return True

    def get(self, path: str) -> bytes:
        """An object's bytes.

        Raises:
            FileNotFoundError: With the object's URL.
        """
        with self._failures(path):
            return bytes(obstore.get(self._store, _checked(path)).bytes())

    def chunks(self, path: str) -> Iterator[bytes]:
        """An object's bytes as they arrive, for what may be too large for memory.

        Raises:
            FileNotFoundError: With the object's URL.
        """
        with self._failures(path):
            yield from obstore.get(self._store, _checked(path)).stream()

    def exists(self, path: str) -> bool:
        """Whether `path` is an object (a folder is none)."""
        try:
            with self._failures(path):
                obstore.head(self._store, _checked(path))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Every object below the folder `prefix`, sorted by path; none where there is no such folder."""
        folder = _checked(prefix) if prefix else ""
        with self._failures(prefix):
            found = [meta for batch in obstore.list(self._store, folder or None) for meta in batch]
        # A console's "create folder" leaves an empty object of the folder's own name.
        infos = [ObjectInfo(m["path"], m["size"], m["e_tag"] or "") for m in found if m["path"] != folder]
        return sorted(infos)

    def delete(self, path: str) -> None:
        """Removes the object, or everything below the folder, at `path`; nothing there is no error."""
        paths = [info.path for info in self.list(_checked(path))]
        if self.exists(path):
            paths.append(_checked(path))
        # Manifests go first: a reader finds the folder whole or not at all.
        manifests = [p for p in paths if p.endswith(f"/{MANIFEST_NAME}")]
        with self._failures(path):
            for batch in (manifests, [p for p in paths if p not in set(manifests)]):
                for start in range(0, len(batch), 1000):
                    self._delete_all(batch[start : start + 1000])
            if self._folder is not None:
                # What a killed writer staged is in no listing.
                shutil.rmtree(self._folder / _checked(path), ignore_errors=True)

    def publish(self, folder: Path, path: str) -> bool:
        """Makes the files of `folder` appear at `path`, all at once: the manifest travels last and create-only.

        A publish that was killed is invisible; the same call completes it. Several publishers of the same content
        all succeed, and one of them gets True.

        Args:
            folder: A local folder with a `manifest.json`.
            path: A folder in the lake that holds this content and nothing else, ever.

        Returns:
            False where it was published already.
        """
        manifest = folder / MANIFEST_NAME
        if not manifest.is_file():
            raise BadInput(f"{manifest}: missing, so {folder} cannot be published", "write the manifest first")
        if self.is_published(path):
            return False
        names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file() and p != manifest]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda name: self._upload(folder / name, f"{path}/{name}"), names))
        return self.put_new(f"{path}/{MANIFEST_NAME}", manifest.read_bytes())

    def is_published(self, path: str) -> bool:
        """Whether readers may rely on the folder `path`."""
        return self.exists(f"{path}/{MANIFEST_NAME}")

    def fetch(self, path: str, to: Path, *, without: str | None = None) -> Path:
        """Copies a published folder to the local folder `to`, which appears at once and whole.

        Args:
            path: A published folder of the lake.
            to: A local folder of its own for this content; one that has a manifest is left as it is.
            without: A folder in it that is not copied.

        Returns:
            `to`.

        Raises:
            FileNotFoundError: Nothing is published at `path`.
        """
        if (to / MANIFEST_NAME).is_file():
            return to
        if not self.is_published(path):
            raise FileNotFoundError(f"{self.url_of(path)}: nothing is published there")
        with disk_failures(to):
            to.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent, ignore_cleanup_errors=True) as temp:
                whole = Path(temp) / to.name
                with ThreadPoolExecutor(TRANSFERS) as pool:
                    wanted = [i for i in self.list(path) if not (without and i.path.startswith(f"{path}/{without}/"))]
                    list(pool.map(lambda info: self._download(info, path, whole), wanted))
                _move_into_place(whole, to)
        return to

    def manifest(self, cls: type[M], path: str) -> M:
        """The manifest of the folder `path`.

        Raises:
            FileNotFoundError: Nothing is published there.
            BadInput: It is not a manifest of this kind.
        """
        place = f"{path}/{MANIFEST_NAME}"
        try:
            return cls.from_bytes(self.get(place))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise BadInput(
                f"{self.url_of(place)}: {field}: {first['msg']} (read as {cls.__name__})",
                "materialize the asset again with this version, or read it with the version that wrote it",
            ) from error

    def dataframe(self, path: str) -> "daft.DataFrame":
        """A lazy dataframe over one Parquet file, or over those that a glob finds (`x/*.parquet`).

        Raises:
            FileNotFoundError: There is no such file.
        """
        # Asked here first: Daft's own client retries an address that does not answer for minutes.
        if not self._files_matching(_checked(path)):
            raise FileNotFoundError(f"{self.url_of(path)}: no such file")
        import daft

        with self._failures(path):
            return daft.read_parquet(self.url_of(path))

    def append(self, path: str, table: "pa.Table", once: Once | None = None, partition_by: str | None = None) -> bool:
        """Appends rows to the Delta table at `path`, in one commit; the first rows' schema makes the table.

        Args:
            partition_by: A column whose values the table keeps apart; matters when it is made.
            once: Where the table has an append of this writer with this number or a higher one, nothing is written:
                the same call may be repeated after any failure, also by several processes at the same time.

        Returns:
            False where nothing was written.

        Raises:
            BadInput: The rows have other columns than the table.
        """
        from deltalake.exceptions import CommitFailedError

        with self.table_failures(path):
            address, options = self._table_url(path), table_options(self.url, self._folder)
            for attempts_left in range(APPEND_ATTEMPTS - 1, -1, -1):
                try:
                    return _append(address, options, table, once, partition_by)
                except CommitFailedError:
                    # Appends never conflict, but two writers that both make the table do, and two of the same `once`:
                    # the second finds it then.
                    if not attempts_left:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def table(self, path: str) -> "DeltaTable":
        """The Delta table at `path`, as of now.

        Raises:
            FileNotFoundError: There is no table.
        """
        from deltalake import DeltaTable

        with self.table_failures(path):
            return DeltaTable(self._table_url(path), storage_options=table_options(self.url, self._folder))

    @cached_property
    def _store(self) -> Any:
        return open_store(self.url, self._folder)

    def _upload(self, file: Path, path: str) -> None:
        with self._failures(path):
            obstore.put(self._store, _checked(path), file, max_concurrency=TRANSFERS)

    def _download(self, info: ObjectInfo, path: str, whole: Path) -> None:
        target = whole / info.path.removeprefix(f"{_checked(path)}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            for chunk in self.chunks(info.path):
                stream.write(chunk)

    def _delete_all(self, paths: Iterable[str]) -> None:
        try:
            obstore.delete(self._store, paths)
        except FileNotFoundError:
            # Somebody else deletes the same folder; only a local folder tells, and it stops at that file.
            for path in paths:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, path)

    def _files_matching(self, pattern: str) -> bool:
        if "*" not in pattern:
            return self.exists(pattern)
        folder = pattern.split("*", 1)[0].rpartition("/")[0]
        return any(fnmatch.fnmatchcase(info.path, pattern) for info in self.list(folder))

    def _table_url(self, path: str) -> str:
        _ = self._store  # A local lake's folder is made, or the reason why not told, before the table's writer asks.
        return self.url_of(path)

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        """Turns what the libraries raise about `path` into errors that name its URL and the mend."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._failure(path, error) from error
            raise FileNotFoundError(f"{self.url_of(path)}: no such object") from error
        except (obstore_errors.BaseError, OSError) as error:
            raise self._failure(path, error) from error
        except ValueError as error:
            raise BadInput(f"{self.url}: {path!r} is not a path of an object", "use plain names between /") from error

    @contextmanager
    def table_failures(self, path: str) -> Iterator[None]:
        """Work on the table that `table` gave stands inside: what the library raises becomes this lake's errors."""
        from deltalake import exceptions as delta_errors

        with self._failures(path):
            try:
                yield
            except delta_errors.SchemaMismatchError as error:
                raise BadInput(f"{self.url_of(path)}: {error}", "append rows with the columns of the table") from error
            except delta_errors.DeltaError as error:
                if isinstance(error, delta_errors.TableNotFoundError) and error_number(error) in (0, errno.ENOENT):
                    raise FileNotFoundError(str(error)) from error
                raise self._failure(path, error) from error

    def _failure(self, path: str, error: Exception) -> FinetuneError:
        return storage_failure(self._folder / path if self._folder else self.url_of(path), error)


def _append(
    address: str, options: dict[str, str], table: "pa.Table", once: Once | None, partition_by: str | None
) -> bool:
    """One attempt; with `once` it looks and commits on the same version, so that a commit in between conflicts."""
    from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
    from deltalake.exceptions import TableNotFoundError

    if once is None:
        write_deltalake(address, table, mode="append", storage_options=options, partition_by=partition_by)
        return True
    try:
        found = DeltaTable(address, storage_options=options)
    except TableNotFoundError:
        # A commit that makes the table and brings rows would be merged with another such commit: both rows stay.
        DeltaTable.create(address, table.schema, mode="ignore", storage_options=options, partition_by=partition_by)
        found = DeltaTable(address, storage_options=options)
    there = found.transaction_version(once.writer)
    if there is not None and there >= once.number:
        return False
    properties = CommitProperties(app_transactions=[Transaction(once.writer, once.number)])
    write_deltalake(found, table, mode="append", storage_options=options, commit_properties=properties)
    return True


def _checked(path: str) -> str:
    """`path` without a trailing slash, if it stays inside the lake."""
    parts = path.removesuffix("/").split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise BadInput(f"{path!r} is not a path inside the lake", "use a relative path such as task/raw/rows.jsonl")
    return "/".join(parts)


def _move_into_place(whole: Path, to: Path) -> None:
    """Renames; where a fetch at the same time was first, its copy stays."""
    try:
        whole.rename(to)
    except OSError as error:
        if (to / MANIFEST_NAME).is_file():
            return
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise BadInput(
                f"{to}: holds something else than a whole copy", "delete that folder and run again"
            ) from error
        raise
