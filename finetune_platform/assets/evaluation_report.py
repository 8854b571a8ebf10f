"""`evaluation_report`: the new adapter against its baselines and the champion, a check a gate."""

import re
from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
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

from finetune_platform.announcements import Event, announce, lake_file
from finetune_platform.assets.presentation import comparison_table, link, provenance
from finetune_platform.assets.trained_adapter import GPU_POOL
from finetune_platform.database import Database
from finetune_platform.errors import PermanentError
from finetune_platform.evaluation.evaluate import EVALUATION_VERSION, evaluate, published_evaluation
from finetune_platform.evaluation.gates import gate_name
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest, EvaluationManifest, GateResult
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import Report
from finetune_platform.registry.making import note_making
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.task import Gate, Task


def evaluation_report(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, "evaluation_report"])

    @asset(
        key=key,
        ins={
            "training": AssetIn(AssetKey([task.name, "trained_adapter"])),
            "dataset": AssetIn(AssetKey([task.name, "curated_dataset"])),
        },
        group_name="evaluate",
        kinds={"pytorch", "scipy"},
        owners=task.owners,
        description="Evidence on held-out rows: trivial, prompted, few-shot, champion and the new adapter, with gates.",
        code_version=EVALUATION_VERSION,
        pool=GPU_POOL,
        check_specs=[_spec(gate, key) for gate in task.evaluation.gates],
    )
    def build(
        context: AssetExecutionContext,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
        workbench: Workbench,
        training: TrainingManifest,
        dataset: DatasetManifest,
    ) -> Iterator[AssetCheckResult | MaterializeResult[EvaluationManifest]]:
        with user_failures():
            champion = _champion(task, lake, database)
            evaluation = _evaluation(task, dataset, training, champion, lake, workbench, context.log.info)
        _announce_blocked(database, evaluation)
        for result in evaluation.gates:
            yield _check(result, key)
        note_making(database, task, "evaluation_report", evaluation, EVALUATION_VERSION, [training, dataset])
        yield MaterializeResult(
            asset_key=key,
            value=evaluation,
            data_version=DataVersion(evaluation.artifact_id),
            metadata=_metadata(evaluation, lake),
        )

    return build


def _evaluation(
    task: Task,
    dataset: DatasetManifest,
    training: TrainingManifest,
    champion: AdapterManifest | None,
    lake: Lake,
    workbench: Workbench,
    report: Report,
) -> EvaluationManifest:
    """The evidence; the base model is loaded only where some of it is missing.

    Raises:
        PermanentError: A provider keeps the model: its answers are not compared here yet.
    """
    if training.hosted is not None:
        raise PermanentError(
            f"{training.artifact_id}: {training.hosted.provider} keeps the model as {training.hosted.model}, and "
            "hosted models are not evaluated or registered yet",
            "serve it as it is with serving.engine: {kind: openai, model: …}, or train where weights come back",
        )
    if found := published_evaluation(task, dataset, training, champion, lake):
        report(f"evaluation: {found.artifact_id} is in place: {found.headline}")
        return found
    from finetune_platform.inference.engine import Engine

    model = workbench.base_model(task, lake, report)
    engine = Engine(model.path)
    report(f"evaluation: computing in {engine.precision.dtype}: {engine.precision.reason}")
    return evaluate(task, dataset, training, champion, engine, lake, workbench.work / "evaluations", report)


def _announce_blocked(database: Database, evaluation: EvaluationManifest) -> None:
    """Once an evaluation: its gates keep the adapter out, now and whenever it is asked for again."""
    if blocking := evaluation.blocking:
        gates = "; ".join(f"{gate.name}: {gate.verdict}, {gate.reason}" for gate in blocking)
        event = Event(
            kind="gate_failed",
            task=evaluation.task,
            subject=evaluation.artifact_id,
            what=f"{evaluation.headline}. Hard gates not passed: {gates}",
            link=lake_file(f"{evaluation.path}/report.html"),
            next_step="read the report; improve data or training and run again, or add test rows where a gate is open",
        )
        announce(database, event)


def _champion(task: Task, lake: Lake, database: Database) -> AdapterManifest | None:
    adapter_id = database.current(task.name, "champion")
    if adapter_id is None:
        return None
    return lake.manifest(AdapterManifest, AdapterManifest.path_of(task.name, adapter_id))


def _spec(gate: Gate, key: AssetKey) -> AssetCheckSpec:
    versus = (
        f"against {gate.max_regression_vs}, margin {gate.margin}" if gate.max_regression_vs else f"{gate.threshold}"
    )
    return AssetCheckSpec(
        _check_name(gate_name(gate)),
        asset=key,
        description=f"{gate.metric} on {gate.slice}: {gate.direction} is better, {versus} ({gate.tier}).",
        blocking=gate.tier == "hard",
    )


def _check_name(gate: str) -> str:
    """Dagster takes letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9]+", "_", gate).strip("_")


def _check(result: GateResult, key: AssetKey) -> AssetCheckResult:
    hard = result.tier == "hard"
    return AssetCheckResult(
        passed=result.verdict in ("pass", "skipped"),
        check_name=_check_name(result.name),
        asset_key=key,
        severity=AssetCheckSeverity.ERROR if hard else AssetCheckSeverity.WARN,
        description=f"{result.verdict}: {result.reason}",
        metadata={"gate": MetadataValue.json(result.model_dump())},
    )


def _metadata(evaluation: EvaluationManifest, lake: Lake) -> dict[str, Any]:
    return {
        **provenance(evaluation, lake),
        "verdict": evaluation.verdict,
        "headline": evaluation.headline,
        "report": link(lake, f"{evaluation.path}/report.html"),
        "comparison": comparison_table(evaluation),
        "generation seconds": evaluation.generation_seconds,
    }
