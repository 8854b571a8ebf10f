"""`base_model_proposal`: what a newer revision of the base model would bring; nothing moves without a person."""

from functools import partial
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    MaterializeResult,
    ResourceParam,
    asset,
    define_asset_job,
    in_process_executor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from finetune_platform.announcements import Event, announce, lake_file
from finetune_platform.assets.presentation import link, provenance
from finetune_platform.assets.trained_adapter import GPU_POOL
from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest, EvaluationManifest, ProposalManifest
from finetune_platform.model_ref import BaseModelRef
from finetune_platform.progress import Report
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.task import Task

ASSET = "base_model_proposal"
CODE_VERSION = "1"


def base_model_proposal(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, ASSET])

    @asset(
        key=key,
        deps=[AssetKey([task.name, "registered_adapter"])],
        group_name="evaluate",
        kinds={"pytorch", "scipy"},
        owners=task.owners,
        description="The champion's adapter and the long prompt on a newer base model, beside the old one.",
        code_version=CODE_VERSION,
        pool=GPU_POOL,
    )
    def build(
        context: AssetExecutionContext,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
        workbench: Workbench,
    ) -> MaterializeResult:
        with user_failures():
            proposal = _proposal(task, lake, database, workbench, context.log.info)
            if proposal is None:
                return MaterializeResult(asset_key=key, metadata={"headline": "no newer base model"})
            database.record_artifact(proposal, ASSET, lake.url_of(proposal.path), context.run_id)
            announce(database, _news(proposal))
        context.log.info(proposal.headline)
        return MaterializeResult(asset_key=key, metadata=_metadata(proposal, lake))

    return build


def base_model_job(task: Task) -> UnresolvedAssetJobDefinition:
    """`{task}_base_model_proposal`: looks for a newer base model, and measures what it would bring."""
    return define_asset_job(
        name=f"{task.name}_{ASSET}",
        selection=AssetSelection.keys([task.name, ASSET]),
        description=f"Measures what a newer base model would bring to {task.name}, and proposes.",
        executor_def=in_process_executor,
    )


def _proposal(
    task: Task, lake: Lake, database: Database, workbench: Workbench, report: Report
) -> ProposalManifest | None:
    """The proposal for what the base model is now at its place; None where the champion stands on that."""
    from finetune_platform.evaluation.migration import Standing, measure, proposal_id_of
    from finetune_platform.evaluation.proposal import publish_proposal
    from finetune_platform.inference.adapter_fit import misfit
    from finetune_platform.inference.base_model_news import is_news, newest, pinned
    from finetune_platform.inference.base_models import resolve_base_model
    from finetune_platform.inference.engine import Engine

    champion_id = database.current(task.name, "champion")
    if champion_id is None:
        return None
    champion = lake.manifest(AdapterManifest, AdapterManifest.path_of(task.name, champion_id))
    found = newest(task.base_model, task.folder, lake)
    if not is_news(found, task.base_model, champion.base_model_revision):
        return None
    ref: BaseModelRef = pinned(found.ref, task.base_model, workbench.cache, report)
    model = resolve_base_model(ref, task.folder, lake, workbench.cache, report)
    if model.revision == champion.base_model_revision:
        return None
    path = ProposalManifest.path_of(task.name, proposal_id_of(task.name, model))
    if lake.is_published(path):
        return lake.manifest(ProposalManifest, path)
    parents = {"registered_adapter": champion_id} | {
        asset: champion.parents[asset] for asset in ("curated_dataset", "evaluation_report")
    }
    standing = Standing(
        champion,
        lake.manifest(DatasetManifest, DatasetManifest.path_of(task.name, parents["curated_dataset"])),
        lake.manifest(EvaluationManifest, EvaluationManifest.path_of(task.name, parents["evaluation_report"])),
    )
    engine = Engine(model.path)
    fits = partial(misfit, base=engine.base)
    measured = measure(task, standing, model, engine, fits, lake, workbench.work / "evaluations", report)
    return publish_proposal(lake, task, measured, ref, parents)


def _news(proposal: ProposalManifest) -> Event:
    return Event(
        kind="base_model_update",
        task=proposal.task,
        subject=proposal.artifact_id,
        what=f"{proposal.base_model} is now {proposal.revision[:12]}. {proposal.headline}",
        link=lake_file(f"{proposal.path}/proposal.html"),
        next_step=f"`finetune base-model {proposal.task}` shows the evidence and how to move; nothing moves by itself",
    )


def _metadata(proposal: ProposalManifest, lake: Lake) -> dict[str, Any]:
    return {
        **provenance(proposal, lake),
        "recommendation": proposal.recommendation,
        "headline": proposal.headline,
        "base model": f"{proposal.base_model}@{proposal.revision}",
        "before": proposal.revision_before,
        "proposal": link(lake, f"{proposal.path}/proposal.html"),
    }
