"""Simulated years of daily looks at quality with known truth: how often is a champion called degraded that is not, and
how soon one that is? Printing and targets are in `evidence.py`; the test suite runs a few of these years.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import NormalDist

import numpy as np
from ppi_simulations import World

from finetune_platform.drift.performance import FEEDBACK, JUDGE, Baseline, PerformanceRow, measure

START = datetime(2024, 1, 1, tzinfo=UTC)
METRIC, PARTIAL = "exact_match", "token_f1"
METRICS = (METRIC, PARTIAL, JUDGE, FEEDBACK)
TEST_ROWS = 230
CONTENT = 0.85
"""Of the users of a right answer; of a wrong one as many are not."""


@dataclass(frozen=True)
class Year:
    """A champion's days in production.

    Attributes:
        world: What is answered, from the first day on.
        later: What is answered from day `change` on.
        labels, judged, votes: Answers a day that experts label, that the judge scores, that users speak of.
    """

    world: World
    later: World | None = None
    change: int = 0
    days: int = 365
    labels: int = 5
    judged: int = 100
    votes: int = 10

    def alarms(self, seed: int) -> dict[str, int]:
        """The first day on which each degraded metric was called so."""
        rng = np.random.default_rng(seed)
        rows: list[PerformanceRow] = []
        for day in range(1, self.days + 1):
            world = self.later if self.later and day >= self.change else self.world
            rows += self._rows(world, day, rng)
        baselines = {name: self._baseline(name, rng) for name in (METRIC, PARTIAL)}
        found = measure(rows, METRICS, baselines, START, 0.1)
        return {
            record.metric: (datetime.fromisoformat(record.degraded_since) - START).days
            for record in found
            if record.degraded_since
        }

    def _rows(self, world: World, day: int, rng: np.random.Generator) -> list[PerformanceRow]:
        seen = world.rows(self.labels + self.judged + self.votes, rng)
        right = seen.scores >= 0.65
        content = rng.random(len(right)) < np.where(right, CONTENT, 1.0 - CONTENT)
        partial = np.where(right, 1.0, 0.6 * rng.random(len(right)))
        moment, judge_id = START + timedelta(days=day), "" if world.judge == "none" else "jd"
        rows = []
        for place, judged in enumerate(seen.judged.tolist()):
            scores = {}
            if place < self.labels:
                scores = {METRIC: float(right[place]), PARTIAL: float(partial[place])}
            elif place >= self.labels + self.judged:
                scores = {FEEDBACK: float(content[place])}
                rows.append(PerformanceRow(look=day, moment=moment, scores=scores))
                continue
            elif not judge_id:
                continue
            rows.append(PerformanceRow(look=day, moment=moment, judge_id=judge_id, judged=judged, scores=scores))
        return rows

    def _baseline(self, metric: str, rng: np.random.Generator) -> Baseline:
        """What an evaluation of the champion says, chance included."""
        seen = replace(self.world, judge="none").rows(TEST_ROWS, rng)
        right = seen.scores >= 0.65
        scores = right.astype(float) if metric == METRIC else np.where(right, 1.0, 0.6 * rng.random(TEST_ROWS))
        half = NormalDist().inv_cdf(0.975) * scores.std(ddof=1) / TEST_ROWS**0.5
        return Baseline(float(scores.mean()), float(scores.mean() - half))
