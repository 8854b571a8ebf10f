"""`retrieval_index`: a task's documents as a versioned index that the gateway answers with, and when it is made.

Only tasks with a `retrieval` section have it. Nothing of the chain follows from it: an adapter is trained and
evaluated without passages.
"""

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    DataVersion,
    DefaultScheduleStatus,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    ScheduleDefinition,
    asset,
    define_asset_job,
    in_process_executor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from finetune_platform.assets.presentation import funnel_table, link, provenance, table
from finetune_platform.lake import Lake
from finetune_platform.manifests import IndexManifest
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.retrieval.build import RETRIEVAL_VERSION, build_index, set_aside_of
from finetune_platform.task import Task

ASSET = "retrieval_index"
SHOWN = 50
"""Documents set aside that the UI lists; the file in the lake has all."""


def retrieval_index(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, ASSET])

    @asset(
        key=key,
        group_name="retrieve",
        kinds={"python", "parquet"},
        owners=task.owners,
        description=f"The passages that {task.name} may answer from, found by words and by meaning.",
        code_version=RETRIEVAL_VERSION,
    )
    def build(
        context: AssetExecutionContext, lake: ResourceParam[Lake], workbench: Workbench
    ) -> MaterializeResult[IndexManifest]:
        with user_failures():
            index = build_index(task, lake, workbench.cache, context.log.info)
        return MaterializeResult(
            asset_key=key,
            value=index,
            data_version=DataVersion(index.artifact_id),
            metadata=_metadata(index, lake),
        )

    return build


def retrieval_job(task: Task) -> UnresolvedAssetJobDefinition:
    """`{task}_retrieval`: makes the index; a corpus that has not changed is only read."""
    return define_asset_job(
        name=f"{task.name}_retrieval",
        selection=AssetSelection.keys([task.name, ASSET]),
        description=f"Indexes the documents of {task.name}.",
        executor_def=in_process_executor,
    )


def retrieval_schedule(task: Task, job: UnresolvedAssetJobDefinition) -> ScheduleDefinition | None:
    """`{task}_retrieval_schedule`, where the task file says when."""
    if task.retrieval is None or task.retrieval.cron is None:
        return None
    return ScheduleDefinition(
        name=f"{task.name}_retrieval_schedule",
        job=job,
        cron_schedule=task.retrieval.cron,
        default_status=DefaultScheduleStatus.RUNNING,
        description=f"Reads the documents of {task.name} again; nothing is made where none has changed.",
    )


def _metadata(index: IndexManifest, lake: Lake) -> dict[str, MetadataValue]:
    shown = {
        **provenance(index, lake),
        "dagster/row_count": MetadataValue.int(index.chunks),
        "documents": MetadataValue.int(index.documents),
        "documents set aside": MetadataValue.int(sum(index.set_aside.values())),
        "chunks longer than the embedder reads": MetadataValue.int(index.cut_short),
        "embedder": MetadataValue.text(f"{index.embedder} ({index.embedder_id})"),
        "settings": MetadataValue.json(index.settings),
        "funnel": funnel_table(index.funnel),
    }
    if index.set_aside:
        rows = [one._asdict() for one in set_aside_of(index, lake)[:SHOWN]]
        shown["set aside"] = table(("uri", "row", "reason", "detail"), rows)
        shown["set aside, all"] = link(lake, f"{index.path}/set_aside.parquet")
    return shown
