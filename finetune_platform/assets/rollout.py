"""`rollout`: the registered adapter's way to the traffic, as the gateway carries it out.

Materializing it starts the adapter's rollout, or looks at the one under way; what the traffic says decides, and
MLflow's alias follows a promotion.
"""

from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetIn,
    AssetKey,
    AssetsDefinition,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
)

from finetune_platform.assets.presentation import table
from finetune_platform.database import Database
from finetune_platform.manifests import AdapterManifest
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.serving import rollouts
from finetune_platform.serving.overview import overview_of
from finetune_platform.task import Task

CODE_VERSION = "1"


def rollout(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, "rollout"])

    @asset(
        key=key,
        ins={"adapter": AssetIn(AssetKey([task.name, "registered_adapter"]))},
        group_name="deploy",
        kinds={"fastapi"},
        owners=task.owners,
        description="Shares of traffic that the adapter earns: shadow, canary steps, champion, or taken back.",
        code_version=CODE_VERSION,
    )
    def build(
        context: AssetExecutionContext,
        database: ResourceParam[Database],
        workbench: Workbench,
        adapter: AdapterManifest,
    ) -> MaterializeResult:
        with user_failures():
            actor = f"dagster run {context.run_id}"
            started = rollouts.ensure_started(
                database, task, adapter.artifact_id, actor=actor, reason=f"{adapter.artifact_id} was registered"
            )
            context.log.info(f"{started.rollout_id}: {started.decision.message}")
            if (ticked := rollouts.tick(database, task)) is not None and ticked.changed:
                context.log.info(f"{ticked.rollout_id}: {ticked.decision.message}")
            overview = overview_of(database, task)
            if (champion := overview["route"]["champion"]) is not None:
                _follow_in_mlflow(task, champion, workbench.tracking)
        return MaterializeResult(asset_key=key, metadata=_metadata(overview))

    return build


def _follow_in_mlflow(task: Task, champion: str, tracking_uri: str) -> None:
    """Points MLflow's alias at the champion that the gateway serves."""
    from finetune_platform.registry.mlflow_versions import find_version, model_registry, point_alias

    with model_registry(tracking_uri) as client:
        if (version := find_version(client, task.name, champion)) is not None:
            point_alias(client, task.name, "champion", version)


def _metadata(overview: dict[str, Any]) -> dict[str, Any]:
    route, found = overview["route"], overview["rollout"]
    rails = [
        {
            "guardrail": rail["name"],
            "e_value": float(rail["e_value"]),
            "limit": float(rail["limit"]),
            "canary": "" if rail["canary"] is None else f"{rail['canary']:.4f} of {rail['canary_n']:,}",
            "champion": "" if rail["champion"] is None else f"{rail['champion']:.4f} of {rail['champion_n']:,}",
        }
        for rail in found["guardrails"]
    ]
    return {
        "id": found["rollout_id"],
        "parent/registered_adapter": found["adapter_id"],
        "state": found["state"],
        "message": found["message"],
        "percent": found["percent"],
        "canary requests in this step": found["canary_requests"],
        "champion": route["champion"] or "base model",
        "guardrails": table(("guardrail", "e_value", "limit", "canary", "champion"), rails),
        "route": MetadataValue.json(route),
    }
