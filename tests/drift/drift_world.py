"""A reference and rows since, with vectors by the first word: a report without a log, a lake or a model."""

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from finetune_platform.drift.kept_reference import KeptReference
from finetune_platform.drift.null_bounds import Vectors
from finetune_platform.drift.reference import make_reference
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.manifests import ReferenceManifest
from finetune_platform.manifests_drift import DriftManifest

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = ["card", "transfer", "login", "refund"]


def row(number: int, question: str, **fields: Any) -> TrafficRow:
    return TrafficRow(
        interaction_id=f"in-{number}", timestamp=BEGIN + timedelta(minutes=number), question=question, **fields
    )


def home(count: int, start: int = 0, **fields: Any) -> list[TrafficRow]:
    return [
        row(start + n, f"{KINDS[n % 4]} question about number {start + n} please", answer=KINDS[n % 4], **fields)
        for n in range(count)
    ]


def strange(count: int, start: int, word: str = "flight", **fields: Any) -> list[TrafficRow]:
    return [row(start + n, f"{word} booking to Lisbon {n}", answer="none of these", **fields) for n in range(count)]


def vectors_of(rows: Sequence[TrafficRow]) -> Vectors:
    """By the first word, with a little of the whole text."""
    vectors = np.array([_centre(row.question.split()[0]) + 0.3 * _centre(row.question) for row in rows])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _centre(text: str) -> Any:
    return np.random.default_rng(zlib.crc32(text.encode())).normal(size=24)


def kept(rows: Sequence[TrafficRow]) -> KeptReference:
    vectors = vectors_of(rows)
    manifest = ReferenceManifest(
        artifact_id="rf-1",
        task="topics",
        code_version="2",
        champion="ad-1",
        rows=len(rows),
        embedder_id="em-1",
        first=rows[0].timestamp.isoformat(),
        last=rows[-1].timestamp.isoformat(),
    )
    return KeptReference(manifest, make_reference(rows, vectors), list(rows), vectors)


def found(status: str = "alarm", **fields: Any) -> DriftManifest:
    said: dict[str, Any] = {
        "artifact_id": "dr-1",
        "task": "topics",
        "code_version": "2",
        "status": status,
        "headline": "drift since 2026-01-02 00:00 UTC: novelty of questions above all",
        "champion": "ad-1",
        "tick": 3,
        "since": BEGIN.isoformat(),
        "until": (BEGIN + timedelta(days=2)).isoformat(),
        "rows": 100,
        "counted": 90,
        "e_value": 1e9,
        "limit": 365.0,
        "channels": [],
    }
    return DriftManifest(**{**said, **fields})
