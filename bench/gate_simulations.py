"""Simulated evaluations with known truth: do intervals cover, do gates err as seldom as they claim?

Rows resemble a narrow extraction task: half have no entities, some are near-duplicates of others, both arms find the
same rows hard. Printing and targets are in `evidence.py`; the test suite runs a few hundred of these.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist, median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.evaluation.gates import CANDIDATE, decide
from finetune_platform.evaluation.metrics import Metric, Part
from finetune_platform.evaluation.resampling import RESAMPLES
from finetune_platform.evaluation.scores import ALL, Estimate, Scores, ScoreSlice
from finetune_platform.task import Gate

Floats = npt.NDArray[np.float64]

REFERENCE = "prompted"
POPULATION = 200_000
"""Rows that stand for the truth: its standard error is a thirtieth of that of 230 rows."""


def _unused(answer: str, gold: str) -> Part:
    raise AssertionError("simulated rows come scored")


METRICS = {
    name: Metric(name, name, "", binary, _unused, name)
    for name, binary in (("exact_match", True), ("token_f1", False), ("entity_f1", False))
}


@dataclass(frozen=True)
class World:
    """Where rows come from.

    Attributes:
        candidate: Its quality: mean success on the latent scale, in standard deviations.
        reference: The other arm's.
        copied: Share of rows on which the candidate answers just as the reference does, as retrained adapters do.
        resamples: Bootstrap samples of an interval.
    """

    candidate: float
    reference: float
    copied: float = 0.0
    resamples: int = RESAMPLES

    def rows(self, count: int, generator: np.random.Generator) -> Scores:
        """`count` scored rows; one in ten stands in a group of two to five near-duplicates."""
        groups, numerators, denominators, attainable = self._draw(count, generator)
        names = np.char.mod("g%d", groups)
        return Scores(METRICS, (CANDIDATE, REFERENCE), numerators, denominators, attainable, names, {}, self.resamples)

    def truth(self) -> dict[str, dict[str, float]]:
        """Every metric of the population, by arm."""
        _, numerators, denominators, _ = self._draw(POPULATION, np.random.default_rng(1))
        values = numerators.sum(axis=0) / denominators.sum(axis=0)
        return {
            arm: dict(zip(METRICS, values[a].tolist(), strict=True)) for a, arm in enumerate((CANDIDATE, REFERENCE))
        }

    def _draw(self, count: int, generator: np.random.Generator) -> tuple[npt.NDArray[np.intp], Floats, Floats, Floats]:
        """Group of each row, and what `Scores` calls numerators, denominators and attainable."""
        groups = _groups(count, generator)
        hardness = generator.normal(size=groups.max() + 1)[groups]
        entities = np.where(generator.random(groups.max() + 1) < 0.55, 0, 1 + generator.poisson(1.5, groups.max() + 1))
        arms = [_arm(q, hardness, entities[groups], generator) for q in (self.candidate, self.reference)]
        numerators, denominators = (np.stack([arm[i] for arm in arms], axis=1) for i in (0, 1))
        same = generator.random(count) < self.copied
        numerators[same, 0], denominators[same, 0] = numerators[same, 1], denominators[same, 1]
        attainable = np.stack([np.ones(count), np.ones(count), 2.0 * entities[groups]], axis=1)
        return groups, numerators, denominators, attainable


class Rates(NamedTuple):
    """Shares of simulated gates that passed and failed, and the median effect that they printed as detectable."""

    passed: float
    failed: float
    effect: float


def coverage(world: World, rows: int, simulations: int, seed: int = 0) -> dict[str, float]:
    """Share of 95% intervals that contain the truth: `metric` for one arm, `metric difference` for two."""
    truth = world.truth()
    hits: dict[str, int] = {}
    for part in _samples(world, rows, simulations, seed):
        for metric in METRICS:
            level = truth[CANDIDATE][metric]
            found = {
                metric: (part.level(CANDIDATE, metric, 0.05), level),
                f"{metric} difference": (
                    part.difference(CANDIDATE, REFERENCE, metric, 0.05),
                    level - truth[REFERENCE][metric],
                ),
            }
            for name, (estimate, true) in found.items():
                hits[name] = hits.get(name, 0) + _covers(estimate, true)
    return {name: count / simulations for name, count in hits.items()}


def gate_rates(world: World, gates: dict[str, Gate], rows: int, simulations: int, seed: int = 0) -> dict[str, Rates]:
    """How each gate decides over many evaluations."""
    results: dict[str, list[tuple[str, float]]] = {name: [] for name in gates}
    for part in _samples(world, rows, simulations, seed):
        for name, gate in gates.items():
            result = decide(gate, part, {}, {})
            results[name].append((result.verdict, result.minimum_detectable_effect or np.nan))
    return {
        name: Rates(
            sum(v == "pass" for v, _ in found) / simulations,
            sum(v == "fail" for v, _ in found) / simulations,
            median(effect for _, effect in found),
        )
        for name, found in results.items()
    }


def no_worse_gates(*margins: float) -> dict[str, Gate]:
    """One gate a metric and margin that compares the candidate to the reference: `metric, margin 0.03`."""
    return {
        f"{m}, margin {margin:g}": Gate(metric=m, max_regression_vs=REFERENCE, margin=margin)
        for margin in margins
        for m in METRICS
    }


def threshold_gates(thresholds: dict[str, float]) -> dict[str, Gate]:
    """One gate a metric that asks for a level."""
    return {m: Gate(metric=m, threshold=t) for m, t in thresholds.items()}


def world_with_effect(world: World, metric: str, effect: float) -> World:
    """The world with a candidate better than the reference by `effect` on `metric`."""
    low, high = world.reference, world.reference + 2.0
    for _ in range(10):
        middle = (low + high) / 2
        truth = replace(world, candidate=middle).truth()
        if truth[CANDIDATE][metric] - truth[REFERENCE][metric] < effect:
            low = middle
        else:
            high = middle
    return replace(world, candidate=high)


def power_of_comparison(world: World, metric: str, rows: int, simulations: int) -> Rates:
    """How often a gate passes where the true difference is what it prints as detectable between equal arms."""
    gate = {metric: Gate(metric=metric, max_regression_vs=REFERENCE)}
    pilots = max(20, simulations // 10)
    effect = gate_rates(world, gate, rows, pilots, seed=1)[metric].effect
    better = world_with_effect(world, metric, effect)
    return gate_rates(better, gate, rows, simulations, seed=2)[metric]._replace(effect=effect)


def power_of_threshold(world: World, metric: str, rows: int, simulations: int) -> Rates:
    """How often a gate passes whose threshold lies below the truth by what it prints as detectable."""
    true = world.truth()[CANDIDATE][metric]
    threshold = true
    for _ in range(4):  # The printed effect depends on the threshold: settle both.
        pilots = gate_rates(world, threshold_gates({metric: threshold}), rows, max(20, simulations // 10), seed=1)
        threshold = true - pilots[metric].effect
    gate = threshold_gates({metric: threshold})
    return gate_rates(world, gate, rows, simulations, seed=2)[metric]


def _samples(world: World, rows: int, simulations: int, seed: int) -> Iterator[ScoreSlice]:
    for generator in np.random.default_rng(seed).spawn(simulations):
        yield world.rows(rows, generator).part(ALL)


def _covers(estimate: Estimate, true: float) -> bool:
    return estimate.lower - 1e-9 <= true <= estimate.upper + 1e-9


def _groups(count: int, generator: np.random.Generator) -> npt.NDArray[np.intp]:
    sizes = np.where(generator.random(count) < 0.95, 1, generator.integers(2, 6, count))
    return np.repeat(np.arange(count), sizes)[:count]


def _arm(
    quality: float, hardness: Floats, entities: npt.NDArray[np.int_], generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Numerators and denominators of one arm, (rows, metrics): success shares half its variance with hardness."""
    count = len(hardness)
    latent = quality + np.sqrt(0.5) * (hardness + generator.normal(size=count))
    exact = (latent > 0).astype(np.float64)
    normal = NormalDist()
    grid = np.linspace(-6, 6, 241)
    curve = np.array([normal.cdf(x) for x in grid])
    partial = np.where(exact > 0, 1.0, np.interp(latent, grid, curve))
    right = generator.binomial(entities, np.interp(quality + hardness * 0.7, grid, curve))
    extra = generator.poisson(0.25 * np.interp(-quality - hardness * 0.7, grid, curve))
    numerators = np.stack([exact, partial, 2.0 * right], axis=1)
    denominators = np.stack([np.ones(count), np.ones(count), 1.0 * right + extra + entities], axis=1)
    return numerators, denominators
