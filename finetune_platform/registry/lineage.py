"""Backwards: from an adapter (or any artifact) over its parents to the source files and rows it was made from.

The way forward, from a row to the adapters it touched, belongs in `trace.py`. Everything is read from manifests in
the lake; the `artifacts` table only says which task an id belongs to.
"""

from collections.abc import Iterator
from typing import Any

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import (
    AdapterManifest,
    BatchManifest,
    DatasetManifest,
    EvaluationManifest,
    IndexManifest,
    LabelsManifest,
    Manifest,
    RawManifest,
    Record,
    ReferenceManifest,
    SourceRecord,
    expect_same,
)
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.registry.artifacts import CHAIN, KINDS, artifact_path, find, read_manifest
from finetune_platform.registry.promotions import PromotionRecord, history
from finetune_platform.rows import SPLITS

BEFORE = ("drift_reference", "drift_report", "review_batch", "expert_labels")
"""What may have led to a chain: the traffic, and what people made of it."""

ROW_COLUMNS = ("split", "example_id", "kind", "source_uri", "source_row", "task_type", "difficulty")
"""What `lineage_rows` tells of a row."""


class LineageStep(Record):
    """One artifact on the way back. `facts` are the figures that a person asks for first."""

    asset: str
    artifact_id: str
    created_at: str
    code_version: str
    url: str
    dagster_run_id: str | None
    facts: dict[str, Any]


class Lineage(Record):
    """From an artifact back to its sources, and to the traffic whose drift made labels of it.

    `steps` go from it to `raw_examples` and on, where labels are among its rows, to the reference of the drift; the
    adapter that answered that traffic has a lineage of its own. An index stands alone with its files.
    """

    task: str
    artifact_id: str
    steps: list[LineageStep]
    sources: list[SourceRecord]
    aliases: list[PromotionRecord]


def lineage(name: str, lake: Lake, database: Database) -> Lineage:
    """Walks back from an artifact.

    Args:
        name: An artifact's id, or a task's name for its champion.

    Raises:
        BadInput: No such artifact, or a parent that the lake does not hold, or parents that disagree.
    """
    champion = database.current(name, "champion")
    start = find(database, champion or name)
    runs = {row.artifact_id: row.dagster_run_id for row in database.artifacts_of(start.task)}
    steps: list[LineageStep] = []
    sources: list[SourceRecord] = []
    known: dict[str, str] = {}
    asset: str | None = start.asset
    artifact_id = start.artifact_id
    if start.asset not in KINDS:
        raise BadInput(f"{start.artifact_id}: is an {start.asset}, which has no way back of its own", "name an adapter")
    while asset is not None:
        manifest = read_manifest(lake, asset, start.task, artifact_id)
        for parent, parent_id in manifest.parents.items():
            expect_same(parent, known.setdefault(parent, parent_id), parent_id, artifact_id)
        steps.append(_step(asset, manifest, lake, runs.get(artifact_id)))
        if isinstance(manifest, RawManifest):
            sources = manifest.sources
        elif isinstance(manifest, IndexManifest):
            sources = manifest.files
        asset = None if asset == "drift_reference" and sources else _next(manifest)
        artifact_id = manifest.parents[asset] if asset else ""
    aliases = history(database, start.task, start.artifact_id)
    return Lineage(task=start.task, artifact_id=start.artifact_id, steps=steps, sources=sources, aliases=aliases)


def lineage_rows(found: Lineage, lake: Lake) -> Iterator[dict[str, Any]]:
    """The rows behind a lineage, one dict of `ROW_COLUMNS` each, split by split.

    Raises:
        BadInput: The lineage holds no dataset (it starts at raw rows).
    """
    dataset = next((step for step in found.steps if step.asset == "curated_dataset"), None)
    if dataset is None:
        raise BadInput(f"{found.artifact_id}: no dataset on the way back", "name a dataset, a run or an adapter")
    folder = artifact_path("curated_dataset", found.task, dataset.artifact_id)
    for split in SPLITS:
        frame = lake.dataframe(f"{folder}/{split}.parquet").select(*ROW_COLUMNS[1:])
        for row in frame.iter_rows():
            yield {"split": split, **row}


def _next(manifest: Manifest) -> str | None:
    """The nearest parent in the chain or behind it; a champion among the parents is a comparison, not an ingredient."""
    order = [*BEFORE, *CHAIN]
    parents = [asset for asset in manifest.parents if asset in order]
    return max(parents, key=order.index) if parents else None


def _step(asset: str, manifest: Manifest, lake: Lake, dagster_run_id: str | None) -> LineageStep:
    return LineageStep(
        asset=asset,
        artifact_id=manifest.artifact_id,
        created_at=manifest.created_at,
        code_version=manifest.code_version,
        url=lake.url_of(manifest.path),
        dagster_run_id=dagster_run_id,
        facts=_facts(manifest),
    )


def _facts(manifest: Manifest) -> dict[str, Any]:
    match manifest:
        case AdapterManifest():
            return {"base_model": f"{manifest.base_model}@{manifest.base_model_revision}", "files": len(manifest.files)}
        case EvaluationManifest():
            compared = {"champion": manifest.parents["champion"]} if "champion" in manifest.parents else {}
            return {"verdict": manifest.verdict, "headline": manifest.headline, **compared}
        case TrainingManifest():
            run = {"mlflow_run_id": manifest.mlflow_run_id} if manifest.mlflow_run_id else {}
            facts: dict[str, Any] = {
                "train_rows": manifest.train_rows,
                "steps": manifest.steps,
                "final_loss": manifest.final_loss,
            }
            if begins_at := manifest.parents.get("warm_start"):
                facts |= {"began at the weights of": begins_at, "replayed_rows": manifest.replayed_rows}
            if manifest.searched:
                facts["options"] = manifest.searched.in_words
            if manifest.privacy:
                facts["privacy"] = "; ".join(f"(epsilon, delta) = {one.in_words}" for one in manifest.privacy)
            if told := manifest.served_in_words:
                facts["base in 4 bits, as served"] = told
            return {**facts, "device": manifest.device, **run}
        case DatasetManifest():
            return {**{name: split.rows for name, split in manifest.splits.items()}, "rejected": manifest.rejected}
        case RawManifest():
            facts = {"rows": manifest.rows, "rejected": sum(source.rejected for source in manifest.sources)}
            return {**facts, "labels": manifest.labels} if manifest.labels else facts
        case IndexManifest():
            facts = {"documents": manifest.documents, "chunks": manifest.chunks}
            return {**facts, "set aside": sum(manifest.set_aside.values()), "embedder": manifest.embedder}
        case DriftManifest():
            return {"verdict": manifest.status, "headline": manifest.headline, "rows": manifest.rows}
        case BatchManifest():
            return {"cause": manifest.cause, "rows": manifest.rows, **manifest.chosen}
        case LabelsManifest():
            agreement = {} if manifest.alpha is None else {"alpha": manifest.alpha}
            return {"rows": manifest.rows, **manifest.by_source, **agreement}
        case ReferenceManifest():
            return {"rows": manifest.rows, "of": manifest.champion, "first": manifest.first, "last": manifest.last}
        case _:
            return {}
