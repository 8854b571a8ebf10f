"""`raw_examples`: a task's sources as canonical rows, refused rows set aside with their place and reason."""

from collections.abc import Iterator

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    MaterializeResult,
    ResourceParam,
    asset,
)

from finetune_platform.assets.presentation import funnel_plot, funnel_table, link, provenance
from finetune_platform.assets.row_checks import check_specs, checked, docs_path
from finetune_platform.curation.collect import CURATION_VERSION, collect
from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import LabelsManifest, RawManifest
from finetune_platform.registry.making import note_making
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.task import Task

LABELS = "expert_labels"


def raw_examples(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, "raw_examples"])

    @asset(
        key=key,
        deps=[AssetKey([task.name, LABELS])],
        group_name="curate",
        kinds={"python", "parquet"},
        owners=task.owners,
        description=f"Canonical rows of {task.name}'s sources; rows that cannot be read are set aside with a reason.",
        code_version=CURATION_VERSION,
        check_specs=check_specs("raw", task, key),
    )
    def build(
        context: AssetExecutionContext,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
        workbench: Workbench,
    ) -> Iterator[AssetCheckResult | MaterializeResult[RawManifest]]:
        from finetune_platform.curation.expectation_frames import raw_frame

        with user_failures():
            labels = _labels(task, lake, database)
            raw = collect(task, lake, workbench.cache, context.log.info, labels)
            yield from checked(raw_frame(lake, raw), "raw", task, key, raw, lake)
        note_making(database, task, "raw_examples", raw, CURATION_VERSION, [labels] if labels else [])
        yield MaterializeResult(
            asset_key=key,
            value=raw,
            metadata={
                **provenance(raw, lake),
                "dagster/row_count": raw.rows,
                "labels": raw.labels,
                "rejected rows": sum(s.rejected for s in raw.sources),
                "sources": "\n".join(f"{s.uri} ({s.format}): {s.rows} rows, sha256 {s.sha256}" for s in raw.sources),
                "funnel": funnel_table(raw.funnel),
                "funnel plot": funnel_plot(raw.funnel),
                "data docs": link(lake, f"{docs_path(task, raw)}/index.html"),
            },
        )

    return build


def _labels(task: Task, lake: Lake, database: Database) -> LabelsManifest | None:
    """What people have decided so far; without them the sources alone are read."""
    latest = database.latest_artifact(task.name, LABELS)
    return (
        None if latest is None else lake.manifest(LabelsManifest, LabelsManifest.path_of(task.name, latest.artifact_id))
    )
