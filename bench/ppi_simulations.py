"""Simulated production with known truth: do prediction-powered intervals cover, and what does a judge save?

Answers are right or wrong, or have a score in between; a judge sees them through noise. Printing and targets are in
`evidence.py`; the test suite runs a few hundred of these.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.drift.prediction_powered import Labelled, PoweredMean, Unlabelled, prediction_powered_mean

Floats = npt.NDArray[np.float64]
Kind = Literal["graded", "yes or no", "perfect", "useless", "none"]

POPULATION = 400_000


class Rows(NamedTuple):
    """Answers of one period: score, the judge's score, number of the stratum."""

    scores: Floats
    judged: Floats
    strata: npt.NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """Where answers come from.

    Attributes:
        quality: Share of right answers in each stratum.
        shares: Of the strata.
        judge: What he says: a graded score, yes or no, the truth, noise; or there is none.
        insight: Distance of right from wrong answers as the judge sees them, in standard deviations of his noise.
        partial: Scores lie between 0 and 1, as a token F1 does.
        drawn: How much more probable a label is in each stratum than in the first: the experts' random sample is
            weighted.
    """

    quality: tuple[float, ...] = (0.6,)
    shares: tuple[float, ...] = (1.0,)
    judge: Kind = "graded"
    insight: float = 0.87
    partial: bool = False
    drawn: tuple[float, ...] = ()

    def rows(self, count: int, rng: np.random.Generator) -> Rows:
        """Answers, drawn independently."""
        strata = rng.choice(len(self.shares), count, p=self.shares)
        right = (rng.random(count) < np.array(self.quality)[strata]).astype(np.float64)
        seen = self.insight * (2.0 * right - 1.0) + rng.normal(size=count)
        scores = right
        if self.partial:
            scores = np.where(right > 0, 1.0 - 0.3 * rng.random(count), 0.6 * rng.random(count))
        # The log odds that he gives for a right answer, as if half of all were right.
        graded = 1.0 / (1.0 + np.exp(-2.0 * self.insight * seen))
        judged = {
            "graded": graded,
            "yes or no": (seen > 0).astype(np.float64),
            "perfect": scores,
            "useless": rng.random(count),
            "none": np.zeros(count),
        }[self.judge]
        return Rows(scores, judged, strata)

    @property
    def truth(self) -> float:
        return float(self.rows(POPULATION, np.random.default_rng(1)).scores.mean()) if self.partial else self._share

    @property
    def _share(self) -> float:
        return float(np.dot(self.shares, self.quality))

    @property
    def kappa(self) -> float:
        """Cohen's kappa of the judge's yes or no (from a half) with right or wrong."""
        rows = self.rows(POPULATION, np.random.default_rng(2))
        yes, right = rows.judged >= 0.5, rows.scores >= 0.65
        agreed = float((yes == right).mean())
        chance = float(yes.mean() * right.mean() + (1 - yes.mean()) * (1 - right.mean()))
        return (agreed - chance) / (1 - chance)

    def estimate(self, labels: int, others: int, rng: np.random.Generator) -> PoweredMean:
        """What labels and judge say of one period."""
        rows = self.rows(labels + others, rng)
        chance = np.array(self.drawn or (1.0,) * len(self.shares))[rows.strata]
        chance = np.minimum(1.0, labels * chance / chance.sum())
        has_label = rng.random(len(chance)) < chance
        names = np.char.mod("s%d", rows.strata) if len(self.shares) > 1 else np.full(len(chance), "")
        ours, rest = np.flatnonzero(has_label), np.flatnonzero(~has_label)
        return prediction_powered_mean(
            Labelled(rows.scores[ours], rows.judged[ours], 1.0 / chance[ours], names[ours]),
            Unlabelled(rows.judged[rest], np.ones(len(rest)), names[rest]),
        )


class Found(NamedTuple):
    """Of many periods.

    Attributes:
        coverage: Share of intervals that hold the truth.
        saved: By how much the estimates scatter less than those of the labels alone, as a share.
        told: By how much the stated standard error is smaller than that of the labels alone, on average.
        bias: Mean of the estimates minus the truth, in standard errors of that mean.
        width: Median width of the intervals.
    """

    coverage: float
    saved: float
    told: float
    bias: float
    width: float


def simulate(world: World, labels: int, others: int, simulations: int, seed: int = 0) -> Found:
    """Estimates of so many periods."""
    truth = world.truth
    made = list(_estimates(world, labels, others, simulations, seed))
    powered = np.array([m.estimate[:4] for m in made])
    alone = np.array([m.labels_only[:2] for m in made])
    scatter, before = powered[:, 0].std(ddof=1), alone[:, 0].std(ddof=1)
    return Found(
        coverage=float(((powered[:, 2] <= truth) & (truth <= powered[:, 3])).mean()),
        saved=float(1.0 - scatter / before),
        told=float(1.0 - powered[:, 1].mean() / alone[:, 1].mean()),
        bias=float((powered[:, 0].mean() - truth) / (scatter / len(made) ** 0.5)),
        width=float(np.median(powered[:, 3] - powered[:, 2])),
    )


def _estimates(world: World, labels: int, others: int, simulations: int, seed: int) -> Iterator[PoweredMean]:
    rng = np.random.default_rng(seed)
    for _ in range(simulations):
        yield world.estimate(labels, others, rng)
