"""`curated_dataset`: raw rows sifted, grouped and split into a versioned dataset."""

from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetIn,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    ResourceParam,
    asset,
)

from finetune_platform.assets.presentation import funnel_plot, funnel_table, link, provenance
from finetune_platform.assets.row_checks import check_specs, checked, docs_path
from finetune_platform.curation.collect import CURATION_VERSION
from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest, RawManifest
from finetune_platform.registry.making import note_making
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.task import Task


def curated_dataset(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, "curated_dataset"])

    @asset(
        key=key,
        ins={"raw": AssetIn(AssetKey([task.name, "raw_examples"]))},
        group_name="curate",
        kinds={"daft", "greatexpectations", "parquet"},
        owners=task.owners,
        description="A versioned dataset: duplicates, contradictions and over-long rows set aside, split by group.",
        code_version=CURATION_VERSION,
        check_specs=check_specs("curated", task, key),
    )
    def build(
        context: AssetExecutionContext,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
        workbench: Workbench,
        raw: RawManifest,
    ) -> Iterator[AssetCheckResult | MaterializeResult[DatasetManifest]]:
        from finetune_platform.curation.curate import curate
        from finetune_platform.curation.expectation_frames import dataset_frame
        from finetune_platform.inference.base_models import count_tokens

        with user_failures():
            model = workbench.base_model(task, lake, context.log.info)
            dataset = curate(
                task, raw, lake, lambda chats: count_tokens(model.path, chats), model.name, context.log.info
            )
            yield from checked(dataset_frame(lake, dataset), "curated", task, key, dataset, lake)
        note_making(database, task, "curated_dataset", dataset, CURATION_VERSION, [raw])
        yield MaterializeResult(
            asset_key=key,
            value=dataset,
            data_version=DataVersion(dataset.artifact_id),
            metadata=_metadata(dataset, lake, task),
        )

    return build


def _metadata(dataset: DatasetManifest, lake: Lake, task: Task) -> dict[str, Any]:
    splits = {f"rows/{name}": split.rows for name, split in dataset.splits.items()}
    kinds = {
        f"rows/{name}/{kind}": count
        for name, split in dataset.splits.items()
        for kind, count in split.kinds.items()
        if set(split.kinds) - {"sft"}
    }
    return {
        **provenance(dataset, lake),
        **splits,
        **kinds,
        "dagster/row_count": sum(splits.values()),
        "rejected rows": dataset.rejected,
        "strata": dataset.strata,
        "tokens a row": dataset.tokens,
        "funnel": funnel_table(dataset.funnel),
        "funnel plot": funnel_plot(dataset.funnel),
        "data docs": link(lake, f"{docs_path(task, dataset)}/index.html"),
    }
