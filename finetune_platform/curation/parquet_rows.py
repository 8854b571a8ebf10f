"""Rows to a Parquet file as they come, a batch in memory at a time, with the hash of what was written.

What a row's columns are stands in `rows.py`.
"""

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.identity import canonical_json
from finetune_platform.storage_errors import disk_failures

BATCH_ROWS = 5_000
BATCH_CHARS = 32_000_000
"""A batch ends at whichever comes first: rows of many megabytes must not add up."""


class ParquetRows(AbstractContextManager["ParquetRows"]):
    """One Parquet file to which rows are added.

    Args:
        path: The file, written anew.
        schema: Its columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        with disk_failures(path):
            self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._path, self._schema = path, schema
        self._batch: list[dict[str, Any]] = []
        self._batch_chars = 0
        self._hash = hashlib.sha256()
        self.rows = 0

    def add(self, row: dict[str, Any]) -> None:
        """One row, whose keys are the schema's columns."""
        line = canonical_json(row)
        self._hash.update(line.encode() + b"\n")
        self._batch.append(row)
        self._batch_chars += len(line)
        self.rows += 1
        if len(self._batch) >= BATCH_ROWS or self._batch_chars >= BATCH_CHARS:
            self._flush()

    @property
    def content_hash(self) -> str:
        """SHA-256 over the rows added so far, in their order."""
        return self._hash.hexdigest()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        with disk_failures(self._path):
            self._writer.close()

    def _flush(self) -> None:
        with disk_failures(self._path):
            self._writer.write_table(pa.Table.from_pylist(self._batch, schema=self._schema))
        self._batch, self._batch_chars = [], 0
