"""One evaluation from start to publication: arms, answers, scores, gates, report.

Each step is a file of its own; this one only puts them in order, so that a killed evaluation goes on where it was.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from finetune_platform.evaluation.arms import Arm
from finetune_platform.evaluation.benchmarks import benchmark_rows, seen_in_training
from finetune_platform.evaluation.compose import Measured, compose, parents_of
from finetune_platform.evaluation.entrants import Entrants, gather, is_candidate
from finetune_platform.evaluation.evidence import Evidence
from finetune_platform.evaluation.metrics import Metric, build_metrics
from finetune_platform.evaluation.predictions import Answerer, Generation
from finetune_platform.evaluation.publication import prediction_table, publish
from finetune_platform.evaluation.scores import build_scores
from finetune_platform.evaluation.usage import usage_of
from finetune_platform.identity import content_id
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest, EvaluationManifest, expect_same
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import Report
from finetune_platform.rows import SLICE_FIELDS
from finetune_platform.task import Benchmark, Task

EVALUATION_VERSION = "1"
"""Part of every evaluation's id: raise it when the same answers would give another report."""


def published_evaluation(
    task: Task, dataset: DatasetManifest, training: TrainingManifest, champion: AdapterManifest | None, lake: Lake
) -> EvaluationManifest | None:
    """The same evaluation, if it was made before; asked first, it saves loading a model."""
    path = f"{task.name}/evaluations/{evaluation_id_of(task, dataset, training, champion)}"
    return lake.manifest(EvaluationManifest, path) if lake.is_published(path) else None


def evaluation_id_of(
    task: Task, dataset: DatasetManifest, training: TrainingManifest, champion: AdapterManifest | None
) -> str:
    """Content address of what decides the report: adapters, rows, prompts, settings, metrics."""
    rival = None if is_candidate(champion, training) else champion
    content = {
        "training": training.artifact_id,
        "dataset": dataset.artifact_id,
        "champion": rival.artifact_id if rival else None,
        "evaluation": task.evaluation.model_dump(),
        "metrics": [metric.fingerprint for metric in build_metrics(task.evaluation)],
        "prompts": [task.baseline_prompt, training.system_prompt],
        "cost": task.cost.model_dump(),
        "version": EVALUATION_VERSION,
    }
    return content_id("ev", content)


def evaluate(
    task: Task,
    dataset: DatasetManifest,
    training: TrainingManifest,
    champion: AdapterManifest | None,
    engine: Answerer,
    lake: Lake,
    work_dir: Path,
    report: Report,
) -> EvaluationManifest:
    """Measures the new adapter against its baselines and the champion, and publishes the evidence.

    Answers already generated, by a killed run of the same evaluation or for another adapter, are not generated again.

    Args:
        task: The task file.
        dataset: What the adapter was trained on; its held-out split is the benchmark.
        training: The run that made the adapter.
        champion: The adapter that serves today, if any.
        engine: The base model.
        lake: Where everything is read and published.
        work_dir: Local folder for this and other evaluations' unfinished work.
        report: Told of progress.

    Raises:
        BadInput: The adapter was trained on another dataset, a benchmark has no rows, or a metric cannot be loaded.
    """
    evaluation_id = evaluation_id_of(task, dataset, training, champion)
    if found := published_evaluation(task, dataset, training, champion, lake):
        report(f"evaluation: {evaluation_id} exists: {found.headline}")
        return found
    # Rows held out of another dataset may have been trained on.
    trained_on = training.parents.get("curated_dataset", "")
    expect_same("the dataset trained on", dataset.artifact_id, trained_on, training.path)
    entrants = gather(task, dataset, training, champion, lake, work_dir)
    generation = Generation(
        engine=engine,
        base_model=f"{training.base_model}@{training.base_model_revision}+{training.chat_template_sha256}",
        max_new_tokens=task.evaluation.max_new_tokens,
        batch_size=task.evaluation.batch_size,
        lake=lake,
        folder=f"{task.name}/evaluations/predictions",
        work_dir=work_dir / evaluation_id,
        report=report,
    )
    metrics = build_metrics(task.evaluation)
    measured = [_measure(b, task, dataset, entrants.arms, metrics, generation) for b in task.evaluation.benchmarks]
    rival = champion if "champion" in entrants.by_name else None
    notes = _notes(task, dataset, rival, entrants.arms, measured, lake)
    evidence = compose(evaluation_id, task, dataset, training, entrants, measured, notes)
    manifest = _manifest(evidence, measured, dataset, training, entrants)
    tables = [prediction_table(m.benchmark.name, m.rows, entrants.arms, m.answers, m.scores) for m in measured]
    publish(evidence, pa.concat_tables(tables), manifest, lake, work_dir)
    report(f"evaluation: {evaluation_id}: {evidence.headline}")
    return lake.manifest(EvaluationManifest, manifest.path)


def _manifest(
    evidence: Evidence,
    measured: Sequence[Measured],
    dataset: DatasetManifest,
    training: TrainingManifest,
    entrants: Entrants,
) -> EvaluationManifest:
    new = [found for m in measured for found in m.answers.values() if found.measurement and not found.reused]
    return EvaluationManifest(
        artifact_id=evidence.evaluation_id,
        task=evidence.task,
        parents=parents_of(dataset, training, entrants),
        code_version=EVALUATION_VERSION,
        verdict=evidence.verdict,
        headline=evidence.headline,
        gates=evidence.gates,
        summary={
            arm.name: {
                name: {"value": v.value, "lower": v.lower, "upper": v.upper}
                for name, v in arm.metrics.items()
                if v.value is not None and v.lower is not None and v.upper is not None
            }
            for arm in evidence.benchmarks[0].arms
        },
        generation_seconds=sum(found.measurement.seconds for found in new if found.measurement),
    )


def _measure(
    benchmark: Benchmark,
    task: Task,
    dataset: DatasetManifest,
    arms: Sequence[Arm],
    metrics: Sequence[Metric],
    generation: Generation,
) -> Measured:
    rows = benchmark_rows(generation.lake, dataset, benchmark)
    answers = {arm.name: generation.answers(arm, rows, benchmark.name) for arm in arms}
    scores = build_scores(
        metrics,
        {name: found.texts for name, found in answers.items()},
        [row.answer for row in rows],
        [row.group_id or row.example_id for row in rows],
        {field: [getattr(row, field) for row in rows] for field in SLICE_FIELDS},
    )
    usages = {name: usage_of(found, task.cost) for name, found in answers.items()}
    return Measured(benchmark, rows, answers, usages, scores)


def _notes(
    task: Task,
    dataset: DatasetManifest,
    champion: AdapterManifest | None,
    arms: Sequence[Arm],
    measured: Sequence[Measured],
    lake: Lake,
) -> list[str]:
    """What a careful reader should know before trusting a figure."""
    notes = []
    trained_on = champion.parents.get("curated_dataset", "") if champion else ""
    if trained_on and trained_on != dataset.artifact_id:
        rows = measured[0].rows
        if seen := seen_in_training(lake, f"{task.name}/datasets/{trained_on}", rows):
            notes.append(f"The champion was trained on {seen} of these {len(rows)} rows: its figures flatter it.")
    usages = {arm.title: measured[0].usages[arm.name] for arm in arms}
    if cut_off := [f"{title} {usage.cut_off:.1%}" for title, usage in usages.items() if usage.cut_off]:
        notes.append(f"Answers cut off at {task.evaluation.max_new_tokens} tokens: {', '.join(cut_off)}.")
    if reused := [
        f"{title} ({usage.measured_at[:10]}, {usage.device})" for title, usage in usages.items() if usage.reused
    ]:
        notes.append(f"Answered for an earlier evaluation, so latency and cost are of that day: {', '.join(reused)}.")
    return notes
