"""The content of a report as one typed record: what `report.json` holds and `report.html` shows.

Computing it from answers is here; how it looks is in `report.py`, what it decides in `gates.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_platform.evaluation.arms import Arm
from finetune_platform.evaluation.gates import CANDIDATE
from finetune_platform.evaluation.scores import ALL, Estimate, Scores
from finetune_platform.evaluation.usage import Usage
from finetune_platform.manifests import GateResult, Record, Verdict

REPORT_ALPHA = 0.05
"""Intervals of the report are 95% ones; each gate has its own alpha."""


class Value(Record):
    """A metric or a difference with its two-sided interval; None where there is nothing to measure."""

    value: float | None
    lower: float | None
    upper: float | None
    rows: int
    groups: int
    method: str
    p_value: float | None = None


class MetricInfo(Record):
    name: str
    title: str
    meaning: str


class ArmEvidence(Record):
    """One arm on one benchmark: `metrics` by name."""

    name: str
    title: str
    description: str
    adapter_id: str | None
    metrics: dict[str, Value]
    usage: Usage


class Comparison(Record):
    """The candidate minus one other arm, by metric, on the same rows."""

    reference: str
    metrics: dict[str, Value]


class Stratum(Record):
    """Some rows of a benchmark: `arms` to metric to value."""

    slice: str
    rows: int
    arms: dict[str, dict[str, Value]]


class BenchmarkEvidence(Record):
    name: str
    split: str
    rows: int
    groups: int
    arms: list[ArmEvidence]
    comparisons: list[Comparison]
    strata: list[Stratum]


class Segment(Record):
    """A piece of an answer against the gold answer: `same`, `extra` or `missing`."""

    kind: str
    text: str


class ExampleAnswer(Record):
    arm: str
    text: str
    score: float
    segments: list[Segment]


class SideBySide(Record):
    """One row with every arm's answer. `why` is how it was chosen."""

    example_id: str
    why: str
    strata: dict[str, str]
    prompt: list[dict[str, str]]
    gold: str
    answers: list[ExampleAnswer]


class Evidence(Record):
    """Everything a report tells. The first benchmark decides the verdict.

    `conditions` are the gates in words, in their order; `compares_entities` says that the segments of side-by-side
    answers are entities, not stretches of text.
    """

    evaluation_id: str
    task: str
    description: str
    verdict: Verdict
    headline: str
    primary_metric: str
    currency: str
    requests_per_month: int
    metrics: list[MetricInfo]
    gates: list[GateResult]
    conditions: list[str]
    benchmarks: list[BenchmarkEvidence]
    examples: list[SideBySide]
    chosen_how: str
    compares_entities: bool
    notes: list[str]
    prompts: dict[str, str]
    provenance: dict[str, Any]


def benchmark_evidence(
    name: str, split: str, arms: Sequence[Arm], usages: Mapping[str, Usage], scores: Scores
) -> BenchmarkEvidence:
    """Every arm, every difference to the candidate, every stratum.

    Args:
        name: Of the benchmark.
        split: Of the dataset.
        arms: In the order of the report.
        usages: By arm.
        scores: Of all arms.
    """
    whole = scores.part(ALL)
    metrics = list(scores.metrics)
    others = [arm.name for arm in arms if arm.name != CANDIDATE]
    return BenchmarkEvidence(
        name=name,
        split=split,
        rows=whole.rows,
        groups=whole.groups,
        arms=[
            ArmEvidence(
                name=arm.name,
                title=arm.title,
                description=arm.description,
                adapter_id=arm.adapter_id,
                metrics={m: as_value(whole.level(arm.name, m, REPORT_ALPHA)) for m in metrics},
                usage=usages[arm.name],
            )
            for arm in arms
        ],
        comparisons=[
            Comparison(
                reference=other,
                metrics={m: as_value(whole.difference(CANDIDATE, other, m, REPORT_ALPHA)) for m in metrics},
            )
            for other in others
        ],
        strata=[_stratum(scores, slice_name) for slice_name in scores.slice_names() if slice_name != ALL],
    )


def _stratum(scores: Scores, slice_name: str) -> Stratum:
    part = scores.part(slice_name)
    arms = {arm: {m: as_value(part.level(arm, m, REPORT_ALPHA)) for m in scores.metrics} for arm in scores.arms}
    return Stratum(slice=slice_name, rows=part.rows, arms=arms)


def as_value(estimate: Estimate) -> Value:
    """The part of an estimate that a reader wants; JSON knows no NaN."""

    def known(number: float) -> float | None:
        return number if math.isfinite(number) else None

    return Value(
        value=known(estimate.value),
        lower=known(estimate.lower),
        upper=known(estimate.upper),
        rows=estimate.rows,
        groups=estimate.groups,
        method=estimate.method,
        p_value=estimate.p_value,
    )
