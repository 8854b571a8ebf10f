"""A reference in the lake: its rows and their vectors. Its channels are made from them anew, always the same."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.drift.null_bounds import Vectors
from finetune_platform.drift.reference import Reference, make_reference
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.identity import content_id
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, ReferenceManifest

REFERENCE_VERSION = "3"
"""Raise it when the same rows would make other channels."""

ROWS_NAME = "rows.parquet"

SCHEMA = pa.schema(
    [
        ("interaction_id", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("session", pa.string()),
        ("tenant", pa.string()),
        ("adapter_id", pa.string()),
        ("format_valid", pa.bool_()),
        ("refused", pa.bool_()),
        ("failed", pa.bool_()),
        ("latency_ms", pa.float64()),
        ("vector", pa.list_(pa.float32())),
    ]
)


def publish_reference(
    lake: Lake, task: str, champion: str, rows: Sequence[TrafficRow], vectors: Vectors, embedder_id: str
) -> ReferenceManifest:
    """Writes `{task}/drift_references/{id}/`, once: the id is a hash of the rows, the champion and the embedder."""
    named = {"task": task, "champion": champion, "embedder": embedder_id, "rows": [row.interaction_id for row in rows]}
    moments = sorted(row.timestamp for row in rows)
    manifest = ReferenceManifest(
        artifact_id=content_id("rf", {**named, "version": REFERENCE_VERSION}),
        task=task,
        parents={"registered_adapter": champion} if champion.startswith("ad-") else {},
        code_version=REFERENCE_VERSION,
        champion=champion,
        rows=len(rows),
        embedder_id=embedder_id,
        first=moments[0].isoformat(),
        last=moments[-1].isoformat(),
    )
    records = [{**asdict(row), "vector": vector} for row, vector in zip(rows, vectors, strict=True)]
    with tempfile.TemporaryDirectory(prefix="drift_reference-") as temp:
        folder = Path(temp)
        pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), folder / ROWS_NAME, compression="zstd")
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        lake.publish(folder, manifest.path)
    return manifest


class KeptReference(NamedTuple):
    """A reference as the lake holds it.

    Attributes:
        channels: Made of the rows.
        rows: Both halves.
        vectors: Of their questions, `(rows, dimension)`.
    """

    manifest: ReferenceManifest
    channels: Reference
    rows: list[TrafficRow]
    vectors: Vectors


def read_reference(lake: Lake, task: str, reference_id: str) -> KeptReference:
    """A reference as `publish_reference` wrote it.

    Raises:
        FileNotFoundError: The lake does not hold it.
    """
    path = ReferenceManifest.path_of(task, reference_id)
    manifest = lake.manifest(ReferenceManifest, path)
    table = pq.read_table(pa.BufferReader(lake.get(f"{path}/{ROWS_NAME}")))
    vectors = np.array(table.column("vector").to_pylist(), dtype=np.float32)
    rows = [TrafficRow(**record) for record in table.drop_columns(["vector"]).to_pylist()]
    return KeptReference(manifest, make_reference(rows, vectors), rows, vectors)
