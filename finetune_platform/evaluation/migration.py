"""What another base model would bring: the champion's adapter and the long prompt on it, beside the old one's answers.

The old base need not exist any more: its answers are those of the champion's own evaluation, on the same rows. Whether
to move is a person's decision; this file measures and recommends.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.evaluation.arms import Arm, baseline_arms, champion_arm
from finetune_platform.evaluation.benchmarks import benchmark_rows
from finetune_platform.evaluation.evidence import REPORT_ALPHA, MetricInfo, Value, as_value
from finetune_platform.evaluation.metrics import build_metrics
from finetune_platform.evaluation.predictions import Answerer, Generation
from finetune_platform.evaluation.scores import ALL, Scores, build_scores
from finetune_platform.identity import content_id
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest, EvaluationManifest, Record
from finetune_platform.progress import Report
from finetune_platform.rows import Example
from finetune_platform.task import Task

MIGRATION_VERSION = "1"
COMPARISONS = (
    ("champion_new", "champion_old"),
    ("prompted_new", "champion_old"),
    ("prompted_new", "prompted_old"),
)
"""What is compared with what: the first minus the second."""

ALPHA = REPORT_ALPHA / len(COMPARISONS)
"""Of each comparison, so that all together are wrong at most once in twenty (Bonferroni)."""

TITLES: Mapping[str, str] = {
    "champion_old": "Champion, old base",
    "champion_new": "Champion's adapter, new base",
    "prompted_old": "Long prompt, old base",
    "prompted_new": "Long prompt, new base",
}
PHRASES: Mapping[str, str] = {
    "champion_old": "the champion on the old base",
    "champion_new": "the champion's adapter on the new base",
    "prompted_old": "the long prompt on the old base",
    "prompted_new": "the long prompt on the new base",
}
RECORDED = {"candidate": "champion_old", "prompted": "prompted_old"}
"""Arms of the champion's own evaluation, which measured it as the candidate."""

Recommendation = Literal["retrain", "stay", "no_difference"]


class Difference(Record):
    """One arm minus another on the same rows, by metric."""

    arm: str
    reference: str
    metrics: dict[str, Value]


class Migration(Record):
    """Everything a proposal tells; `proposal.json` holds it.

    `levels` is arm to metric to value, with 95% intervals; the intervals of `differences` hold together at 95%.
    `misfit` is why the champion's adapter cannot be put on the new base; "" where it can.
    """

    proposal_id: str
    task: str
    champion: str
    evaluation: str
    base_model: str
    revision: str
    revision_before: str
    recommendation: Recommendation
    headline: str
    primary_metric: str
    metrics: list[MetricInfo]
    rows: int
    levels: dict[str, dict[str, Value]]
    differences: list[Difference]
    misfit: str
    notes: list[str]


class Standing(NamedTuple):
    """What serves today, and its evidence."""

    champion: AdapterManifest
    dataset: DatasetManifest
    evaluation: EvaluationManifest


def proposal_id_of(task: str, model: ResolvedModel) -> str:
    """One proposal a revision, whoever is champion when it is looked at again."""
    return content_id("mg", [task, model.name, model.revision])


def measure(
    task: Task,
    standing: Standing,
    model: ResolvedModel,
    engine: Answerer,
    misfit: Callable[[Path], str],
    lake: Lake,
    work_dir: Path,
    report: Report,
) -> Migration:
    """Measures the champion's adapter and the long prompt on another base model.

    Args:
        task: The task file.
        standing: The champion; its evaluation has the answers on the old base.
        model: The other base model.
        engine: Runs it.
        misfit: Why an adapter's folder cannot be put on it; "" where it can.
        lake: Where everything is read.
        work_dir: Local folder for unfinished work; a killed measurement goes on there.
        report: Told of progress.

    Raises:
        BadInput: The champion's evaluation does not have the benchmark's rows.
    """
    champion = standing.champion
    proposal_id = proposal_id_of(task.name, model)
    rows, answers = _recorded(task, standing, lake)
    adapter = lake.fetch(champion.path, work_dir / "adapters" / champion.artifact_id)
    problem = misfit(adapter)
    arms = {"prompted_new": baseline_arms(task, lake, standing.dataset)[0]}
    if problem:
        report(f"proposal: the champion's adapter does not fit the new base: {problem}")
    else:
        arms["champion_new"] = champion_arm(champion, adapter)
    generation = Generation(
        engine=engine,
        base_model=f"{model.name}@{model.revision}+{model.chat_template_sha256}",
        max_new_tokens=task.evaluation.max_new_tokens,
        batch_size=task.evaluation.batch_size,
        lake=lake,
        folder=f"{task.name}/evaluations/predictions",
        work_dir=work_dir / proposal_id,
        report=report,
    )
    answers |= {name: _texts(generation, arm, rows, task) for name, arm in arms.items()}
    scores = build_scores(
        build_metrics(task.evaluation),
        {name: answers[name] for name in TITLES if name in answers},
        [row.answer for row in rows],
        [row.group_id or row.example_id for row in rows],
        {},
    )
    return _migration(task, standing, model, proposal_id, scores, problem)


def _recorded(task: Task, standing: Standing, lake: Lake) -> tuple[list[Example], dict[str, Sequence[str]]]:
    """The benchmark's rows and what was answered on the old base."""
    from daft import col

    benchmark = task.evaluation.benchmarks[0]
    path = f"{standing.evaluation.path}/predictions.parquet"
    table = lake.dataframe(path).where((col("benchmark") == benchmark.name) & col("arm").is_in(list(RECORDED)))
    told: dict[str, dict[str, str]] = {name: {} for name in RECORDED.values()}
    for row in table.select("arm", "example_id", "answer").to_pylist():
        told[RECORDED[row["arm"]]][row["example_id"]] = row["answer"]
    every = benchmark_rows(lake, standing.dataset, benchmark)
    rows = [row for row in every if all(row.example_id in answers for answers in told.values())]
    if not rows:
        raise BadInput(
            f"{path}: no answers to the rows of benchmark {benchmark.name}",
            f"evaluate the champion's task anew: `finetune run {task.name} --from evaluation_report`",
        )
    return rows, {name: [answers[row.example_id] for row in rows] for name, answers in told.items()}


def _texts(generation: Generation, arm: Arm, rows: Sequence[Example], task: Task) -> Sequence[str]:
    return generation.answers(arm, rows, task.evaluation.benchmarks[0].name).texts


def _migration(
    task: Task, standing: Standing, model: ResolvedModel, proposal_id: str, scores: Scores, problem: str
) -> Migration:
    whole, champion = scores.part(ALL), standing.champion
    differences = [
        Difference(
            arm=arm,
            reference=reference,
            metrics={m: as_value(whole.difference(arm, reference, m, ALPHA)) for m in scores.metrics},
        )
        for arm, reference in COMPARISONS
        if arm in scores.arms
    ]
    metric = task.evaluation.primary_metric
    recommendation, decisive = _recommended(differences, metric, problem)
    place = f"{model.name}@{model.revision[:12]}"
    return Migration(
        proposal_id=proposal_id,
        task=task.name,
        champion=champion.artifact_id,
        evaluation=standing.evaluation.artifact_id,
        base_model=model.name,
        revision=model.revision,
        revision_before=champion.base_model_revision,
        recommendation=recommendation,
        headline=_headline(recommendation, decisive, place, scores.metrics[metric].title, metric, problem),
        primary_metric=metric,
        metrics=[MetricInfo(name=m.name, title=m.title, meaning=m.meaning) for m in scores.metrics.values()],
        rows=whole.rows,
        levels={arm: {m: as_value(whole.level(arm, m, REPORT_ALPHA)) for m in scores.metrics} for arm in scores.arms},
        differences=differences,
        misfit=problem,
        notes=_notes(standing, model),
    )


def _recommended(
    differences: Sequence[Difference], metric: str, problem: str
) -> tuple[Recommendation, Difference | None]:
    """What to do, and the difference that decided it: surely better anywhere speaks for training on the new base."""
    for one in differences:
        if (lower := one.metrics[metric].lower) is not None and lower > 0:
            return "retrain", one
    for one in differences:
        upper = one.metrics[metric].upper
        if one.arm == "champion_new" and upper is not None and upper < 0:
            return "stay", one
    return ("stay" if problem else "no_difference"), None


def _headline(
    recommendation: Recommendation, decisive: Difference | None, place: str, title: str, metric: str, problem: str
) -> str:
    openings: dict[Recommendation, str] = {
        "retrain": f"Train anew on {place}",
        "stay": "Stay on the old base",
        "no_difference": f"No reason to move to {place}",
    }
    if decisive is not None:
        value = decisive.metrics[metric]
        side = "above" if (value.value or 0.0) > 0 else "below"
        return (
            f"{openings[recommendation]}: {title} of {PHRASES[decisive.arm]} is {abs(value.value or 0.0):.2f} {side} "
            f"that of {PHRASES[decisive.reference]} [{value.lower:+.2f}, {value.upper:+.2f}]"
        )
    if problem:
        return f"{openings[recommendation]}: the champion's adapter does not fit {place}, and no prompt is better there"
    return f"{openings[recommendation]}: no difference in {title} that these rows settle"


def _notes(standing: Standing, model: ResolvedModel) -> list[str]:
    """What a careful reader should know."""
    day, evaluation = standing.evaluation.created_at[:10], standing.evaluation.artifact_id
    notes = [f"Answers on the old base are those of {evaluation}, {day}; nothing was generated there again."]
    if model.chat_template_sha256 != standing.champion.chat_template_sha256:
        notes.append("The chat template has changed: the adapter sees other tokens around the text than it learnt.")
    return notes
