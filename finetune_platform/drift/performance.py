"""How good the champion's answers are in production, metric by metric, and whether that is worse than it was.

Rows come scored: an answer against an expert's label by whoever knows the task's metrics, an answer alone by a judge.
Reading and keeping them belongs in `measured.py`, the statistics in `prediction_powered.py` and `degradation.py`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

import numpy as np

from finetune_platform.drift.degradation import LowerMean
from finetune_platform.drift.null_bounds import Floats
from finetune_platform.drift.prediction_powered import (
    NO_SPREAD,
    Interval,
    Labelled,
    Unlabelled,
    prediction_powered_mean,
)
from finetune_platform.manifests_drift import PerformancePoint, PerformanceRecord
from finetune_platform.sequential import rate_bounds

ALPHA = 0.05
"""Probability that any metric of a champion that did not become worse is ever called degraded."""

BASELINE_ROWS = 200
"""Where no evaluation says how good the champion was, its first so many scores do."""

FEW_PAIRS = 30
"""Labels that a judge's worth is learnt from before he helps to bet."""

MOST_OTHERS = 50
"""Judged rows that one label gets: more would add little to it."""

NEUTRAL = 0.5
"""Stands for what a judge said that could not be read: any number would do that does not depend on the label."""

MOST_POINTS = 40
"""Looks of which estimates are told."""

JUDGE, FEEDBACK = "judge", "feedback"
"""Metrics without labels: the judge's own scores, and the share of users who were content."""


class Baseline(NamedTuple):
    """How good the champion was when it was measured: an estimate and the lower end of its 95% interval."""

    value: float
    lower: float

    def level(self, max_degradation: float) -> float:
        """Below it the champion is degraded: by more than allowed, and by more than chance in the baseline explains."""
        return min((1.0 - max_degradation) * self.value, self.lower)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceRow:
    """One answer that was scored, in one look or another.

    Attributes:
        moment: Of the look.
        judge_id: Of the judge who was asked; "" where none was.
        judged: His score; None where he was not asked or could not be read.
        scores: By metric; none where nobody labelled the answer.
        weight: One over the probability that the answer was drawn: for a label, or else for the judge.
    """

    look: int
    moment: datetime
    stratum: str = ""
    weight: float = 1.0
    judge_id: str = ""
    judged: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def said(self) -> float:
        return NEUTRAL if self.judged is None else self.judged


def measure(
    rows: Sequence[PerformanceRow],
    metrics: Sequence[str],
    baselines: Mapping[str, Baseline],
    since: datetime,
    max_degradation: float,
) -> list[PerformanceRecord]:
    """Every metric that some row has a score of, the most degraded first.

    Args:
        rows: All since the champion took over, in the order of their looks. Those with scores were drawn at random for
            experts, the others at random for a judge.
        metrics: All that may ever be called degraded, `JUDGE` and `FEEDBACK` among them: they share `ALPHA`.
        baselines: By metric; a metric without one is compared with its own first rows.
        since: Estimates are of rows from then on; evidence is of all.
        max_degradation: As a share of the baseline.
    """
    limit = len(metrics) / ALPHA
    found = []
    for name in metrics:
        stream = _stream(rows, name)
        if any(name in row.scores for row in stream):
            found.append(_metric(name, stream, baselines.get(name), since, max_degradation, limit))
    return sorted(found, key=lambda record: -record.e_value)


def over_time(rows: Sequence[PerformanceRow], metrics: Sequence[str], window: timedelta) -> list[PerformancePoint]:
    """What the estimates of `metrics` were at each of the newest looks.

    Args:
        rows: As for `measure`.
        metrics: Those that it found.
        window: Each estimate is of so many days.
    """
    points = []
    for name in metrics:
        stream = _stream(rows, name)
        moments = sorted({row.moment for row in stream if name in row.scores})[-MOST_POINTS:]
        for moment in moments:
            found, _, _, _ = _estimate(name, [row for row in stream if moment - window <= row.moment <= moment])
            point = {"estimate": found.value, "lower": found.lower, "upper": found.upper}
            points.append(PerformancePoint(metric=name, moment=moment.isoformat(), **point))
    return points


def _stream(rows: Sequence[PerformanceRow], name: str) -> Sequence[PerformanceRow]:
    """The rows that bear on a metric: all, or the newest judge's scores as if they were labels."""
    if name != JUDGE:
        return rows
    judge_id = next((row.judge_id for row in reversed(rows) if row.judge_id), "")
    judged = [row for row in rows if row.judge_id == judge_id and row.judged is not None and not row.scores]
    return [replace(row, judge_id="", scores={JUDGE: row.said}) for row in judged]


def _metric(
    name: str,
    rows: Sequence[PerformanceRow],
    baseline: Baseline | None,
    since: datetime,
    max_degradation: float,
    limit: float,
) -> PerformanceRecord:
    known, later = (baseline, rows) if baseline else _first_rows(name, rows)
    evidence, degraded_since = LowerMean(), None
    if known and known.level(max_degradation) > 0:
        level = known.level(max_degradation)
        for moment, scores, highest in _outcomes(name, later):
            evidence = evidence.seen(scores, level, highest)
            if degraded_since is None and evidence.e_value >= limit:
                degraded_since = moment
    recent = [row for row in rows if row.moment >= since]
    estimate, labels_only, labels, judged = _estimate(name, recent)
    return PerformanceRecord(
        metric=name,
        estimate=_finite(estimate.value),
        lower=_finite(estimate.lower),
        upper=_finite(estimate.upper),
        labels_only_lower=_finite(labels_only.lower),
        labels_only_upper=_finite(labels_only.upper),
        method=estimate.method,
        n_labels=labels,
        n_judged=judged,
        baseline=known.value if known else None,
        level=known.level(max_degradation) if known else None,
        e_value=evidence.e_value,
        limit=limit,
        degraded=degraded_since is not None,
        degraded_since=degraded_since.isoformat() if degraded_since else None,
    )


def _first_rows(name: str, rows: Sequence[PerformanceRow]) -> tuple[Baseline | None, Sequence[PerformanceRow]]:
    """A baseline of the first looks that hold enough rows, and the rows of the looks after them."""
    scored = [row for row in rows if name in row.scores]
    if len(scored) < BASELINE_ROWS:
        return None, ()
    last = scored[BASELINE_ROWS - 1].look
    first = [row.scores[name] for row in scored if row.look <= last]
    lower = rate_bounds(len(first), sum(first), ALPHA).lower
    return Baseline(sum(first) / len(first), lower), [row for row in rows if row.look > last]


def _outcomes(name: str, rows: Sequence[PerformanceRow]) -> Iterator[tuple[datetime, Floats, float]]:
    """For each look with labels its moment, independent scores whose mean is the metric's, and their upper limit.

    A label y of an answer that the judge gave f becomes `weight (y - slope f) + slope m`, where m is the mean of what
    he gave to some answers without a label, others for each label: its expectation is the metric's whatever he says,
    and it scatters less if he is good. The slope is learnt from earlier looks. Source: Csillag, Struchiner & Goedert
    2025, "Prediction-powered e-values", ICML 42.
    """
    pairs: list[tuple[float, float]] = []
    others: list[float] = []
    judge_id = ""
    for _, group in groupby(rows, key=lambda row: row.look):
        look = list(group)
        if (asked := next((row.judge_id for row in look if row.judge_id), judge_id)) != judge_id:
            judge_id, pairs, others = asked, [], []
        others += [row.said for row in look if row.judge_id == judge_id and judge_id and not row.scores]
        labelled = [row for row in look if name in row.scores]
        if not labelled:
            continue
        each = min(len(others) // len(labelled), MOST_OTHERS)
        slope = _slope(pairs, each)
        weights = np.array([row.weight for row in labelled])
        weights *= len(weights) / weights.sum()
        helped = np.array([slope if row.judge_id == judge_id and judge_id else 0.0 for row in labelled])
        y, f = np.array([row.scores[name] for row in labelled]), np.array([row.said for row in labelled])
        scores = weights * (y - helped * f)
        if slope:
            scores += helped * np.array(others[-each * len(labelled) :]).reshape(len(labelled), each).mean(axis=1)
            others = []
        pairs += [(row.scores[name], row.said) for row in labelled if row.judge_id == judge_id and judge_id]
        yield labelled[0].moment, scores, float(weights.max()) + slope


def _slope(pairs: Sequence[tuple[float, float]], each: int) -> float:
    if len(pairs) < FEW_PAIRS or each == 0:
        return 0.0
    y, f = np.array(pairs).T
    spread = float(f.var())
    if spread < NO_SPREAD:
        return 0.0
    together = float(np.mean((y - y.mean()) * (f - f.mean())))
    return min(max(together / (spread * (1.0 + 1.0 / each)), 0.0), 1.0)


def _estimate(name: str, rows: Sequence[PerformanceRow]) -> tuple[Interval, Interval, int, int]:
    """Estimate, that of the labels alone, how many labels there are and how many other rows were judged."""
    labelled = [row for row in rows if name in row.scores]
    if not labelled:
        nothing = Interval(math.nan, math.nan, math.nan, math.nan, "labels")
        return nothing, nothing, 0, 0
    judge_id = next((row.judge_id for row in reversed(rows) if row.judge_id), "")
    others = [row for row in rows if not row.scores and row.judge_id == judge_id]
    usual = float(np.mean([row.said for row in others])) if others else NEUTRAL
    # A label whose answer the judge did not see stands beside his usual score, which says nothing of it.
    judged = [row.said if judge_id and row.judge_id == judge_id else usual for row in labelled]
    found = prediction_powered_mean(
        Labelled(
            np.array([row.scores[name] for row in labelled]),
            np.array(judged),
            np.array([row.weight for row in labelled]),
            np.array([row.stratum for row in labelled]),
        ),
        Unlabelled(
            np.array([row.said for row in others], dtype=np.float64),
            np.array([row.weight for row in others], dtype=np.float64),
            np.array([row.stratum for row in others], dtype=np.str_),
        ),
    )
    return found.estimate, found.labels_only, found.labels, found.judged if judge_id else 0


def _finite(number: float) -> float | None:
    """JSON knows no NaN."""
    return number if math.isfinite(number) else None
