"""What was decided, as labels: rows of the Delta table `{task}/labels/`, and immutable sets of them that train.

A label says who decided what, when, on which interaction. The table only grows; a set is the view of one moment: for
each prompt the most trusted label, of equally trusted ones the newest.
"""

import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finetune_platform.identity import ROW_ID_DIGITS, canonical_json, content_id
from finetune_platform.labeling.batches import Batch, Reviewed
from finetune_platform.labeling.figures import Figures
from finetune_platform.lake import Lake, Once
from finetune_platform.manifests import MANIFEST_NAME, LabelsManifest
from finetune_platform.rows import LABELS_NAME, Message, labels_path

LabelFrom = Literal["expert", "correction", "accepted"]

LABELS_VERSION = "1"
EXPERT_TRUST = 1.0
PRODUCTION = "production"
"""What stands for the batch of labels that users gave."""

SCHEMA = pa.schema(
    [
        ("label_id", pa.string()),
        ("label_from", pa.string()),
        ("trust", pa.float64()),
        ("interaction_id", pa.string()),
        ("batch_id", pa.string()),
        ("number", pa.int64()),
        ("messages", pa.string()),
        ("answer", pa.string()),
        ("suggestion", pa.string()),
        ("adapter_id", pa.string()),
        ("how", pa.string()),
        ("decided_by", pa.list_(pa.string())),
        ("selection", pa.string()),
        ("inclusion_probability", pa.float64()),
        ("stratum", pa.string()),
        ("decided_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""`messages` is canonical JSON of the prompt; `decided_by` are the people whose word it is, or the key that sent it."""


class Correction(NamedTuple):
    """What a user said of an answer: what it should have been, or that it was taken as it was."""

    interaction_id: str
    messages: tuple[Message, ...]
    answered: str | None
    answer: str
    label_from: LabelFrom
    adapter_id: str
    said_by: str
    said_at: datetime


def keep_expert_labels(lake: Lake, batch: Batch) -> int:
    """Writes the labels of a closed batch, once however often it is called; gold rows are none.

    Returns:
        Labels of the batch.
    """
    if batch.is_open:
        raise ValueError(f"{batch.batch_id} is open; close it first")
    rows = [row for row in batch.rows if row.outcome.state == "settled" and row.item.selection != "gold"]
    if rows:
        table = pa.Table.from_pylist([_expert_label(batch, row) for row in rows], schema=SCHEMA)
        lake.append(labels_path(batch.task), table, Once(batch.batch_id, 1))
    return len(rows)


def keep_production_labels(lake: Lake, task: str, said: Iterable[Correction], trust: dict[LabelFrom, float]) -> int:
    """Adds what users said and the table does not hold yet; gives how many labels that were.

    Args:
        trust: Of each kind, in [0, 1].
    """
    found = {row["label_id"]: row for row in (_production_label(task, one, trust[one.label_from]) for one in said)}
    known = set(_read(lake, task, ["label_id"]).column("label_id").to_pylist())
    new = [row for label_id, row in found.items() if label_id not in known]
    if new:
        # A number of the moment: of two writers at once one is refused and finds its rows there the next time.
        moment = int(datetime.now(UTC).timestamp() * 1e6)
        lake.append(labels_path(task), pa.Table.from_pylist(new, schema=SCHEMA), Once(PRODUCTION, moment))
    return len(new)


def publish_label_set(
    lake: Lake, task: str, min_trust: float, batch: Batch | None, figures: Figures | None
) -> LabelsManifest:
    """Publishes `{task}/label_sets/{id}/` of all labels as they stand; the same labels are the same set.

    Args:
        min_trust: Labels below are counted, and left out.
        batch: The newest one, whose figures the manifest tells; None where there is none yet.
        figures: Of `batch`.
    """
    every = _read(lake, task, SCHEMA.names)
    trusted = every.filter(pc.greater_equal(every.column("trust"), min_trust))
    best = _best_of_each_prompt(trusted)
    manifest = LabelsManifest(
        artifact_id=content_id("ls", {"task": task, "labels": best.column("label_id").to_pylist()}),
        task=task,
        parents={"review_batch": batch.batch_id} if batch else {},
        code_version=LABELS_VERSION,
        rows=best.num_rows,
        by_source={
            kind: best.column("label_from").to_pylist().count(kind) for kind in ("expert", "correction", "accepted")
        },
        replaced=trusted.num_rows - best.num_rows,
        distrusted=every.num_rows - trusted.num_rows,
        batches=sorted({name for name in best.column("batch_id").to_pylist() if name != PRODUCTION}),
        alpha=figures.alpha.value if figures else None,
        alpha_lower=figures.alpha.lower if figures else None,
        alpha_upper=figures.alpha.upper if figures else None,
        hours=figures.hours if figures else 0.0,
        cost=figures.cost if figures else 0.0,
    )
    with tempfile.TemporaryDirectory(prefix="label_set-") as temp:
        pq.write_table(best, Path(temp) / LABELS_NAME, compression="zstd")
        (Path(temp) / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        lake.publish(Path(temp), manifest.path)
    return manifest


def measuring_labels(lake: Lake, task: str, adapter_id: str, since: datetime) -> list[dict[str, Any]]:
    """What experts decided since a moment on answers of an adapter that were drawn at random: these measure it."""
    table = _read(lake, task, SCHEMA.names)
    wanted = (
        (pc.field("label_from") == "expert")
        & (pc.field("selection") == "random")
        & (pc.field("adapter_id") == adapter_id)
        & (pc.field("decided_at") >= pa.scalar(since, SCHEMA.field("decided_at").type))
        & pc.field("suggestion").is_valid()
    )
    return table.filter(wanted).sort_by([("decided_at", "ascending"), ("label_id", "ascending")]).to_pylist()


def labelled_interactions(lake: Lake, task: str) -> set[str]:
    """Interactions that an expert has labelled: nobody needs to be asked again."""
    table = _read(lake, task, ["interaction_id", "label_from"])
    return set(table.filter(pc.equal(table.column("label_from"), "expert")).column("interaction_id").to_pylist())


def _read(lake: Lake, task: str, columns: Sequence[str]) -> pa.Table:
    path = labels_path(task)
    try:
        table = lake.table(path)
    except FileNotFoundError:
        return SCHEMA.empty_table().select(list(columns))
    with lake.table_failures(path):
        return table.to_pyarrow_table(columns=list(columns))


def _best_of_each_prompt(labels: pa.Table) -> pa.Table:
    order = [("trust", "descending"), ("decided_at", "descending"), ("label_id", "ascending")]
    ranked = labels.take(pc.sort_indices(labels, sort_keys=order))
    first: dict[str, int] = {}
    for place, prompt in enumerate(ranked.column("messages").to_pylist()):
        first.setdefault(prompt, place)
    return ranked.take(pa.array(first.values(), pa.int64())).sort_by("label_id")


def _expert_label(batch: Batch, row: Reviewed) -> dict[str, Any]:
    item, outcome = row.item, row.outcome
    decisive = [said for said in row.said if said.adjudication] or [s for s in row.said if s.decision == "answer"]
    return {
        **_named("expert", batch.task, batch.batch_id, row.number, item.messages, outcome.answer or ""),
        "trust": EXPERT_TRUST,
        "interaction_id": row.interaction_id,
        "suggestion": item.suggestion,
        "adapter_id": item.adapter_id,
        "how": outcome.how,
        "decided_by": sorted(said.reviewer for said in decisive),
        "selection": item.selection,
        "inclusion_probability": item.inclusion_probability,
        "stratum": item.stratum,
        "decided_at": max(said.at for said in decisive),
    }


def _production_label(task: str, said: Correction, trust: float) -> dict[str, Any]:
    return {
        **_named(said.label_from, task, PRODUCTION, 0, said.messages, said.answer, said.interaction_id),
        "trust": trust,
        "interaction_id": said.interaction_id,
        "suggestion": said.answered,
        "adapter_id": said.adapter_id,
        "how": said.label_from,
        "decided_by": [said.said_by],
        "selection": None,
        "inclusion_probability": None,
        "stratum": "",
        "decided_at": said.said_at,
    }


def _named(
    label_from: LabelFrom, task: str, batch_id: str, number: int, messages: Iterable[Message], answer: str, *more: str
) -> dict[str, Any]:
    prompt = canonical_json([message.plain() for message in messages])
    said = [label_from, task, batch_id, number, *more, prompt, answer]
    return {
        "label_id": content_id("lb", said, ROW_ID_DIGITS),
        "label_from": label_from,
        "batch_id": batch_id,
        "number": number,
        "messages": prompt,
        "answer": answer,
    }
