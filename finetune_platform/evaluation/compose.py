"""From measurements to the record that a report shows: gates decided, words found, provenance told.

Generating answers is in `predictions.py`, the record's shape in `evidence.py`.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from finetune_platform.evaluation.arms import Arm
from finetune_platform.evaluation.entrants import Entrants
from finetune_platform.evaluation.evidence import Evidence, MetricInfo, benchmark_evidence
from finetune_platform.evaluation.examples import choose, rival_of, side_by_side
from finetune_platform.evaluation.gates import decide_all, overall_verdict
from finetune_platform.evaluation.headline import condition, headline
from finetune_platform.evaluation.predictions import ArmAnswers
from finetune_platform.evaluation.scores import Scores
from finetune_platform.evaluation.usage import Usage
from finetune_platform.manifests import DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.rows import Example
from finetune_platform.task import Benchmark, Task


@dataclass(frozen=True)
class Measured:
    """One benchmark, answered and scored by every arm."""

    benchmark: Benchmark
    rows: list[Example]
    answers: dict[str, ArmAnswers]
    usages: dict[str, Usage]
    scores: Scores


def compose(
    evaluation_id: str,
    task: Task,
    dataset: DatasetManifest,
    training: TrainingManifest,
    entrants: Entrants,
    measured: Sequence[Measured],
    notes: list[str],
) -> Evidence:
    """The whole report of an evaluation; the first of `measured` decides its verdict."""
    settings, first, arms = task.evaluation, measured[0], entrants.by_name
    gates = decide_all(settings.gates, first.scores, entrants.absent, entrants.blocked)
    verdict = overall_verdict(gates)
    rival = rival_of(first.scores, settings.primary_metric) or "trivial"
    chosen, how = choose(first.scores, settings.primary_metric, rival, settings.side_by_side)
    texts = {name: found.texts for name, found in first.answers.items()}
    return Evidence(
        evaluation_id=evaluation_id,
        task=task.name,
        description=task.description,
        verdict=verdict,
        headline=headline(verdict, gates, first.scores, settings.primary_metric, arms),
        primary_metric=settings.primary_metric,
        currency=task.cost.currency,
        requests_per_month=task.cost.requests_per_month,
        metrics=[MetricInfo(name=m.name, title=m.title, meaning=m.meaning) for m in first.scores.metrics.values()],
        gates=gates,
        conditions=[condition(gate, first.scores, arms) for gate in settings.gates],
        benchmarks=[
            benchmark_evidence(m.benchmark.name, m.benchmark.split, entrants.arms, m.usages, m.scores) for m in measured
        ],
        examples=side_by_side(
            first.rows, entrants.arms, texts, first.scores, settings.primary_metric, settings.entities, chosen
        ),
        chosen_how=f"{how} The best rival is {arms[rival].phrase}.",
        compares_entities=settings.entities is not None,
        notes=notes,
        prompts=_prompts(entrants.arms),
        provenance=_provenance(task, dataset, training, entrants, first),
    )


def parents_of(dataset: DatasetManifest, training: TrainingManifest, entrants: Entrants) -> dict[str, str]:
    """Ids of what the evaluation was made from."""
    parents = {"trained_adapter": training.artifact_id, "curated_dataset": dataset.artifact_id}
    champion = entrants.by_name.get("champion")
    return {**parents, "champion": str(champion.adapter_id)} if champion else parents


def _prompts(arms: Sequence[Arm]) -> dict[str, str]:
    prompts = {}
    for arm in arms:
        if arm.constant is not None:
            prompts[arm.title] = f"(no model) {arm.constant}"
        else:
            turns = [f"[{m.role}] {m.content}" for m in arm.shots]
            prompts[arm.title] = "\n".join([f"[system] {arm.system_prompt}", *turns])
    return prompts


def _provenance(
    task: Task, dataset: DatasetManifest, training: TrainingManifest, entrants: Entrants, first: Measured
) -> dict[str, Any]:
    packages = ("torch", "transformers", "peft", "numpy")
    return {
        "parents": parents_of(dataset, training, entrants),
        "base model": {
            "name": training.base_model,
            "revision": training.base_model_revision,
            "chat template sha256": training.chat_template_sha256,
        },
        "settings": task.evaluation.model_dump(exclude={"gates"}),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "devices": sorted({usage.device for usage in first.usages.values() if usage.device}),
    }
