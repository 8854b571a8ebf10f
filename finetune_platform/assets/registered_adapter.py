"""`registered_adapter`: evidence that passed, as an immutable bundle with a version and aliases."""

from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetIn,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
)

from finetune_platform.assets.presentation import link, provenance
from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest, EvaluationManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.registry.bundle import CARD_NAME
from finetune_platform.registry.register import CODE_VERSION, register
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.task import Task


def registered_adapter(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, "registered_adapter"])

    @asset(
        key=key,
        ins={
            "evaluation": AssetIn(AssetKey([task.name, "evaluation_report"])),
            "training": AssetIn(AssetKey([task.name, "trained_adapter"])),
            "dataset": AssetIn(AssetKey([task.name, "curated_dataset"])),
        },
        group_name="register",
        kinds={"mlflow", "huggingface"},
        owners=task.owners,
        description="An immutable bundle at its content address, an MLflow version, and the alias it earned.",
        code_version=CODE_VERSION,
    )
    def build(
        context: AssetExecutionContext,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
        workbench: Workbench,
        evaluation: EvaluationManifest,
        training: TrainingManifest,
        dataset: DatasetManifest,
    ) -> MaterializeResult[AdapterManifest]:
        with user_failures():
            model = workbench.base_model(task, lake, context.log.info)
            adapter = register(
                task,
                evaluation,
                training,
                dataset,
                model,
                lake,
                database,
                workbench.tracking,
                context.run_id,
                context.log.info,
            )
        return MaterializeResult(
            asset_key=key,
            value=adapter,
            data_version=DataVersion(adapter.artifact_id),
            metadata=_metadata(adapter, lake),
        )

    return build


def _metadata(adapter: AdapterManifest, lake: Lake) -> dict[str, Any]:
    return {
        **provenance(adapter, lake),
        "base model": f"{adapter.base_model}@{adapter.base_model_revision}",
        "mlflow model": adapter.mlflow_model,
        "card": MetadataValue.md(lake.get(f"{adapter.path}/{CARD_NAME}").decode()),
        "card file": link(lake, f"{adapter.path}/{CARD_NAME}"),
    }
