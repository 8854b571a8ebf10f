"""A batch in the lake and before people: what was chosen, why, and how likely each row was."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.database import Database
from finetune_platform.identity import canonical_json, content_id
from finetune_platform.labeling.batches import ToReview, open_batch
from finetune_platform.labeling.choosing import Candidate, choose
from finetune_platform.labeling.composing import Gold, items_of
from finetune_platform.labeling.labels import labelled_interactions
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, BatchManifest
from finetune_platform.task_labeling import Labeling

BATCH_VERSION = "1"
ITEMS_NAME = "items.parquet"

SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("interaction_id", pa.string()),
        ("messages", pa.string()),
        ("suggestion", pa.string()),
        ("selection", pa.string()),
        ("inclusion_probability", pa.float64()),
        ("score", pa.float64()),
        ("stratum", pa.string()),
        ("wanted", pa.int64()),
        ("hides_suggestion", pa.bool_()),
        ("gold", pa.string()),
        ("adapter_id", pa.string()),
    ]
)


def publish_batch(
    task: str,
    labeling: Labeling,
    candidates: Sequence[Candidate],
    gold: Sequence[Gold],
    *,
    cause: str,
    reason: str,
    parents: dict[str, str],
    since: datetime,
    until: datetime,
    redact: bool,
    lake: Lake,
    database: Database,
) -> BatchManifest:
    """Chooses rows, writes `{task}/review_batches/{id}/` and opens the batch for people; once a cause.

    Repeated after a failure it chooses the same rows of the same candidates: what is drawn is drawn by the cause.

    Args:
        candidates: Rows that come into question; not empty.
        gold: Rows whose answer is known.
        cause: What asks for the batch.
        reason: The same in words for people.
        parents: Of the manifest.
        since: The candidates' time, with `until`.
        redact: Whether personal data are replaced before people see them.
    """
    seed = int(content_id("seed", [task, cause])[len("seed-") :], 16)
    chosen = choose(candidates, labeling, seed, labelled_interactions(lake, task))
    rows = items_of(chosen, labeling, gold, seed, redact=redact)
    manifest = BatchManifest(
        artifact_id=content_id("rb", {"task": task, "cause": cause, "rows": [_record(0, row) for row in rows]}),
        task=task,
        parents=parents,
        code_version=BATCH_VERSION,
        cause=cause,
        reason=reason,
        rows=len(rows),
        chosen=dict(Counter(row.item.selection for row in rows)),
        candidates=len(candidates),
        since=since.isoformat(),
        until=until.isoformat(),
    )
    records = [_record(number, row) for number, row in enumerate(rows, start=1)]
    with tempfile.TemporaryDirectory(prefix="review_batch-") as temp:
        pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), Path(temp) / ITEMS_NAME, compression="zstd")
        (Path(temp) / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        lake.publish(Path(temp), manifest.path)
    opened = open_batch(database, task, manifest.artifact_id, cause, reason, rows)
    return lake.manifest(BatchManifest, BatchManifest.path_of(task, opened))


def _record(number: int, row: ToReview) -> dict[str, object]:
    fields = row.item.model_dump(mode="json", exclude={"messages"})
    prompt = canonical_json([message.plain() for message in row.item.messages])
    return {"number": number, "interaction_id": row.interaction_id, "messages": prompt, **fields}
