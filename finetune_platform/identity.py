"""Content hashes with a readable prefix: the same content has the same id, everywhere.

Only hashing belongs here; what is hashed is decided by the row and manifest models.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

ID_DIGITS = 12
"""Hex digits after the prefix: 48 bits, so a collision among a million ids of one task has odds of 1 in 500."""

ROW_ID_DIGITS = 20
"""Rows are far more numerous than artifacts: 80 bits."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and unescaped Unicode: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(prefix: str, value: Any, digits: int = ID_DIGITS) -> str:
    """Readable content address of a JSON value, such as `ds-3f9a1c20b7e4`.

    Args:
        prefix: What it identifies: `ds` dataset, `tr` training run, `ad` adapter, `ev` evaluation.
        value: Anything `json.dumps` takes.
        digits: Hex digits kept of the SHA-256.
    """
    digest = hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{prefix}-{digest[:digits]}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its relative POSIX path, in sorted order."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): file_sha256(p) for p in files}
