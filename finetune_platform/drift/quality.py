"""One look at the quality of the champion's answers: what is new is scored and kept, and what all of it says is told.

A look may be repeated after any failure and may run twice at once: an answer enters the evidence once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from finetune_platform.drift.measured import Kind, Measurement, judge_calls, keep_measurements, read_measurements
from finetune_platform.drift.monitor import named
from finetune_platform.drift.performance import FEEDBACK, JUDGE, Baseline, measure, over_time
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.drift.sample import sampled
from finetune_platform.drift.state import Champion
from finetune_platform.errors import TransientError
from finetune_platform.inference.judge import Judgement, Judges
from finetune_platform.lake import Lake
from finetune_platform.manifests_drift import DriftManifest, JudgeRecord, PerformancePoint, PerformanceRecord
from finetune_platform.progress import Report
from finetune_platform.task import Task

COST_DAYS = 30


class Answer(NamedTuple):
    """One answer of the champion.

    Attributes:
        scores: By metric, against an expert's label; None without one.
        weight: One over the probability that an expert was asked.
    """

    interaction_id: str
    question: str
    answer: str
    scores: dict[str, float] | None = None
    weight: float = 1.0


class Production(NamedTuple):
    """A task's answers and what is known of them, and how to read it.

    Attributes:
        champion: Whose they are.
        read: Gives the answers after one moment up to another, a fair sample of all, in pieces, oldest first.
        labels: Gives those that experts labelled since a moment, drawn at random.
        votes: Gives which answers users were content with, or not, since a moment, by id.
        stratum_of: A kind of question; an answer plays no part in it.
        judge: None where the task has none.
        baselines: What the champion's evaluation says, by metric.
    """

    champion: Champion
    read: Callable[[datetime, datetime], Iterable[Sequence[TrafficRow]]]
    labels: Callable[[datetime], Sequence[Answer]]
    votes: Callable[[datetime], Mapping[str, bool]]
    stratum_of: Callable[[str], str]
    judge: Judges | None
    baselines: dict[str, Baseline]


class Quality(NamedTuple):
    """What a look found.

    Attributes:
        judge: What became of the answers that he was given; None where the task has no judge.
        history: Estimates as they were at the newest looks.
    """

    performance: list[PerformanceRecord]
    judge: JudgeRecord | None
    history: list[PerformancePoint]


def look_at_quality(task: Task, production: Production, lake: Lake, now: datetime, report: Report) -> Quality:
    """Scores what came since the last look, keeps it, and tells what all looks say.

    Args:
        task: Its `drift`, `judge` and `evaluation` sections are used.
        production: What was answered.
        lake: Where scores are kept.
        now: Answers up to `settle_minutes` before it are looked at.
        report: Hears of progress.

    Raises:
        TransientError: Another look at the same answers was faster.
    """
    champion = production.champion
    kept = read_measurements(lake, task.name, champion.name, champion.since)
    until = now - timedelta(minutes=task.drift.settle_minutes)
    votes = production.votes(kept.since)
    new = [_voted(name, positive) for name, positive in votes.items() if ("voted", name) not in kept.known]
    labelled = [row for row in production.labels(kept.since) if ("labelled", row.interaction_id) not in kept.known]
    told = None
    if production.judge is None or task.judge is None:
        new += [_measurement(production, "labelled", row) for row in labelled]
    else:
        pieces = (_answered(piece) for piece in production.read(kept.seen_until or kept.since, until))
        rows, logged, last = sampled(pieces, task.judge.max_rows, kept.next_look)
        drawn = [Answer(row.interaction_id, row.question, row.answer or "") for row in rows]
        judged = production.judge.judge([(row.question, row.answer) for row in (*labelled, *drawn)], report)
        told = _told(judged)
        new += _judged(production, labelled, judged[: len(labelled)], "labelled")
        new += _judged(production, drawn, judged[len(labelled) :], "sampled", logged, last)
    if new and not keep_measurements(lake, task.name, champion.name, kept.next_look, now, new):
        raise TransientError(f"{task.name}: another look at the same answers was faster", "look again")
    measured = read_measurements(lake, task.name, champion.name, champion.since).rows if new else kept.rows
    window = timedelta(days=task.drift.window_days)
    metrics = [*task.evaluation.metrics, FEEDBACK, *([JUDGE] if task.judge else [])]
    found = measure(measured, metrics, production.baselines, now - window, task.drift.max_degradation)
    history = over_time(measured, [record.metric for record in found], window)
    return Quality(found, told and _with_cost(told, task, lake, now), history)


def with_quality(found: DriftManifest, quality: Quality) -> DriftManifest:
    """The finding of a look at the traffic and of one at the quality, as one."""
    degraded = [record for record in quality.performance if record.degraded]
    said = [_headline(record) for record in degraded]
    # In an order that later looks keep: the first names what experts are asked about, and once.
    fell = sorted((str(record.degraded_since), record.metric) for record in degraded)
    alarms = [*found.alarms, *(f"{found.champion} {metric} {since}" for since, metric in fell)]
    return named(
        found.model_copy(
            update={
                "status": "alarm" if alarms else found.status,
                "headline": "; ".join([*said, *([found.headline] if found.alarms or not said else [])]),
                "alarms": alarms,
                "performance": quality.performance,
                "judge": quality.judge,
            }
        )
    )


def _headline(record: PerformanceRecord) -> str:
    since = (record.degraded_since or "")[:16].replace("T", " ")
    now = "" if record.estimate is None else f" {record.estimate:.2f} ({record.lower:.2f} to {record.upper:.2f})"
    return f"{record.metric}{now} is below {record.level:.2f} since {since} UTC, it was {record.baseline:.2f}"


def _answered(piece: Sequence[TrafficRow]) -> list[TrafficRow]:
    return [row for row in piece if row.answer is not None and not row.failed]


def _voted(interaction_id: str, positive: bool) -> Measurement:
    return Measurement(kind="voted", interaction_id=interaction_id, scores={FEEDBACK: float(positive)})


def _judged(
    production: Production,
    rows: Sequence[Answer],
    judged: Sequence[Judgement],
    kind: Kind,
    logged: int = 0,
    last: datetime | None = None,
) -> list[Measurement]:
    """Measurements of the rows; of those drawn for the judge only the ones that he answered, each for as many."""
    assert production.judge is not None
    judge_id, answered = production.judge.judge_id, [judgement.outcome != "failed" for judgement in judged]
    weight, made = logged / max(1, sum(answered)), []
    for row, judgement, ok in zip(rows, judged, answered, strict=True):
        if ok or kind == "labelled":
            drawn = row._replace(weight=weight) if kind == "sampled" else row
            made.append(_measurement(production, kind, drawn, judge_id if ok else "", judgement.score, last))
    return made


def _measurement(
    production: Production,
    kind: Kind,
    row: Answer,
    judge_id: str = "",
    judged: float | None = None,
    seen_until: datetime | None = None,
) -> Measurement:
    return Measurement(
        kind=kind,
        interaction_id=row.interaction_id,
        seen_until=seen_until,
        stratum=production.stratum_of(row.question),
        weight=row.weight,
        judge_id=judge_id,
        judged=judged,
        scores=row.scores or {},
    )


def _told(judged: Sequence[Judgement]) -> JudgeRecord:
    counts = Counter(judgement.outcome for judgement in judged)
    problem = next((judgement.problem for judgement in judged if judgement.problem), "")
    return JudgeRecord(
        scored=counts["scored"], unreadable=counts["unreadable"], failed=counts["failed"], problem=problem
    )


def _with_cost(told: JudgeRecord, task: Task, lake: Lake, now: datetime) -> JudgeRecord:
    """With what the judge's answers of the last days have cost."""
    assert task.judge is not None
    calls = judge_calls(lake, task.name, now - timedelta(days=COST_DAYS))
    return told.model_copy(
        update={"cost_of_30_days": calls * task.judge.price_per_call, "currency": task.cost.currency}
    )
