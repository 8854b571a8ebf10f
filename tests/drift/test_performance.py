"""Metrics of the champion in production from scored rows: estimates, baselines, judges that change, standing alarms."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from finetune_platform.drift.performance import (
    BASELINE_ROWS,
    FEEDBACK,
    JUDGE,
    Baseline,
    PerformanceRow,
    measure,
    over_time,
)
from finetune_platform.manifests_drift import PerformanceRecord

START = datetime(2026, 1, 1, tzinfo=UTC)
METRICS = ("exact_match", JUDGE, FEEDBACK)
KNOWN = {"exact_match": Baseline(0.8, 0.75)}


def day(number: int, quality: float, labels: int = 10, judged: int = 40, judge_id: str = "jd") -> list[PerformanceRow]:
    """A look whose answers are right with a probability, with a judge who mostly sees it."""
    rng = np.random.default_rng(number)
    rows = []
    for place in range(labels + judged):
        right = rng.random() < quality
        said = 0.8 if right == (rng.random() < 0.85) else 0.2
        scores = {"exact_match": float(right)} if place < labels else {}
        moment = START + timedelta(days=number)
        judge = {"judge_id": judge_id, "judged": said} if judge_id else {}
        if scores or judge:
            rows.append(PerformanceRow(look=number, moment=moment, scores=scores, **judge))
    return rows


def told(rows: list[PerformanceRow], since: datetime = START) -> dict[str, PerformanceRecord]:
    return {record.metric: record for record in measure(rows, METRICS, KNOWN, since, 0.1)}


def test_the_level_allows_the_degradation_and_the_chance_in_the_baseline() -> None:
    assert Baseline(0.8, 0.78).level(0.1) == pytest.approx(0.72)
    assert Baseline(0.8, 0.6).level(0.1) == 0.6


def test_a_good_champion_is_estimated_with_the_judges_help_and_not_degraded() -> None:
    found = told([row for number in range(20) for row in day(number, 0.8)])
    exact = found["exact_match"]
    assert exact.lower < 0.8 < exact.upper and not exact.degraded and exact.e_value < exact.limit == 60
    assert (exact.n_labels, exact.n_judged, exact.method) == (200, 800, "prediction-powered")
    assert exact.upper - exact.lower < 0.9 * (exact.labels_only_upper - exact.labels_only_lower)
    assert (exact.baseline, exact.level) == (0.8, pytest.approx(0.72))


def test_a_fall_is_an_alarm_that_stands_and_is_the_same_at_every_later_look() -> None:
    rows = [row for number in range(30) for row in day(number, 0.8)]
    assert not told(rows)["exact_match"].degraded
    rows += [row for number in range(30, 70) for row in day(number, 0.5)]
    fallen = told(rows)["exact_match"]
    assert fallen.degraded and START + timedelta(days=30) < datetime.fromisoformat(fallen.degraded_since)
    rows += [row for number in range(70, 120) for row in day(number, 0.95)]
    later = told(rows)["exact_match"]
    assert (later.degraded, later.degraded_since) == (True, fallen.degraded_since)
    recent = told(rows, since=START + timedelta(days=90))["exact_match"]
    assert recent.estimate > 0.9 and recent.degraded


def test_the_evidence_does_not_hang_on_what_came_later() -> None:
    rows = [row for number in range(60) for row in day(number, 0.6)]
    first = next(n for n in range(1, 61) if told([r for r in rows if r.look < n])["exact_match"].degraded)
    assert datetime.fromisoformat(told(rows)["exact_match"].degraded_since) == START + timedelta(days=first - 1)


def test_without_a_judge_the_labels_stand_alone() -> None:
    found = told([row for number in range(10) for row in day(number, 0.8, judge_id="")])
    assert list(found) == ["exact_match"]
    assert (found["exact_match"].method, found["exact_match"].n_judged) == ("labels", 0)


def test_metrics_without_an_evaluation_are_compared_with_their_own_beginning() -> None:
    def votes(number: int, content: float) -> list[PerformanceRow]:
        rng = np.random.default_rng(number)
        scores = (rng.random(20) < content).astype(float).tolist()
        moment = START + timedelta(days=number)
        return [PerformanceRow(look=number, moment=moment, scores={FEEDBACK: score}) for score in scores]

    rows = [row for number in range(9) for row in votes(number, 0.9)]
    early = told(rows)[FEEDBACK]
    assert (early.baseline, early.e_value, early.n_labels) == (None, 1.0, 180)
    rows += [row for number in range(9, 30) for row in votes(number, 0.9)]
    quiet = told(rows)[FEEDBACK]
    assert quiet.baseline == pytest.approx(0.9, abs=0.05) and not quiet.degraded
    assert quiet.level < 0.9 * quiet.baseline + 1e-9 and BASELINE_ROWS == 200
    rows += [row for number in range(30, 60) for row in votes(number, 0.5)]
    assert told(rows)[FEEDBACK].degraded


def test_the_judges_own_scores_are_a_metric_and_another_judge_begins_anew() -> None:
    rows = [row for number in range(20) for row in day(number, 0.8)]
    rows += [row for number in range(20, 40) for row in day(number, 0.2)]
    assert told(rows)[JUDGE].degraded and told(rows)[JUDGE].n_labels == 1600
    rows += [row for number in range(40, 45) for row in day(number, 0.2, judge_id="another")]
    anew = told(rows)[JUDGE]
    assert (anew.degraded, anew.n_labels) == (False, 200)
    assert told(rows)["exact_match"].n_judged == 200


def test_what_a_judge_could_not_read_or_did_not_see_does_not_move_the_estimate() -> None:
    rows = [row for number in range(60) for row in day(number, 0.8)]
    rng = np.random.default_rng(0)
    holes = [
        PerformanceRow(
            look=row.look,
            moment=row.moment,
            scores=row.scores,
            judge_id="" if row.scores and chance < 0.2 else row.judge_id,
            judged=None if chance < 0.4 else row.judged,
        )
        for row, chance in zip(rows, rng.random(len(rows)), strict=True)
    ]
    whole, holed = told(rows)["exact_match"], told(holes)["exact_match"]
    assert holed.estimate == pytest.approx(whole.estimate, abs=0.02)
    assert (
        whole.upper - whole.lower < holed.upper - holed.lower < holed.labels_only_upper - holed.labels_only_lower + 0.01
    )


def test_estimates_over_time_are_of_the_days_before_each_look() -> None:
    rows = [row for number in range(50) for row in day(number, 0.9 if number < 25 else 0.4)]
    points = over_time(rows, ["exact_match"], timedelta(days=7))
    assert len(points) == 40 and points[0].moment < points[-1].moment
    assert points[5].estimate > 0.75 and points[-1].estimate < 0.55
    assert all(point.lower <= point.estimate <= point.upper for point in points)
