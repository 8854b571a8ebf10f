"""All scores of one benchmark as arrays, and estimates with intervals for any arm, metric and slice of it.

How one row is scored is in `metrics.py`, the statistics in `resampling.py`, `intervals.py` and `paired.py`. What an
estimate means for a decision is in `gates.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.evaluation.intervals import effective_rows, proportion, zero_count_bound
from finetune_platform.evaluation.metrics import Metric, Part, score_rows
from finetune_platform.evaluation.paired import mcnemar, tango
from finetune_platform.evaluation.resampling import (
    RESAMPLES,
    Floats,
    Interval,
    bca,
    expanded,
    group_numbers,
    group_sums,
    leave_one_out,
    ratio,
    resample,
)

ALL = "all"

FEW_DIFFERENCES = 20
"""With fewer groups that differ, a bootstrap of differences is too sure of itself: of 100 rows, three wins and no loss
give a BCa interval without 0, though McNemar's p is 0.25. So the interval must hold Tango's of wins and losses too."""


class Estimate(NamedTuple):
    """A metric of one arm, or the difference of two arms, with its two-sided interval.

    Attributes:
        value: NaN where the slice has nothing to measure.
        lower: Lower end of the interval.
        upper: Upper end.
        rows: Rows that count: those with something to find, or something claimed.
        groups: Groups of near-duplicates among them, the independent observations.
        effective: How many independent rows they are worth.
        standard_error: Of `value`.
        method: How the interval was computed.
        p_value: McNemar's mid-p, of a difference between binary outcomes.
        discordance: Share of rows on which the two arms differ, of such a difference.
    """

    value: float
    lower: float
    upper: float
    rows: int
    groups: int
    effective: float
    standard_error: float
    method: str
    p_value: float | None = None
    discordance: float | None = None

    @property
    def defined(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.lower) and math.isfinite(self.upper)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one benchmark.

    Attributes:
        metrics: By name.
        arms: Names, in the order of the arrays.
        numerators: (rows, arms, metrics).
        denominators: The same shape.
        attainable: Denominators of the gold answers scored against themselves, (rows, metrics): a metric is undefined
            where they add up to 0 (entity F1 of rows that have no entities).
        group_ids: Near-duplicate cluster of each row, (rows,).
        strata: Value of each row by field (`rows.SLICE_FIELDS`).
        resamples: Bootstrap samples of each slice.
    """

    metrics: Mapping[str, Metric]
    arms: tuple[str, ...]
    numerators: Floats
    denominators: Floats
    attainable: Floats
    group_ids: npt.NDArray[np.str_]
    strata: Mapping[str, npt.NDArray[np.str_]]
    resamples: int = RESAMPLES
    _parts: dict[str, "ScoreSlice"] = field(default_factory=dict, init=False, repr=False)

    def slice_names(self) -> list[str]:
        """`all`, then every `field=value` that has rows, where a field has more than one value."""
        names = [ALL]
        for stratum, values in self.strata.items():
            present = sorted(v for v in set(values.tolist()) if v)
            names += [f"{stratum}={v}" for v in present] if len(set(values.tolist())) > 1 else []
        return names

    def part(self, slice_name: str) -> "ScoreSlice":
        """The rows of `all` or of `field=value`; possibly none."""
        if slice_name not in self._parts:
            mask = np.ones(len(self.group_ids), dtype=bool)
            if slice_name != ALL:
                stratum, _, value = slice_name.partition("=")
                mask = self.strata[stratum] == value
            self._parts[slice_name] = ScoreSlice(self, mask)
        return self._parts[slice_name]

    def row_scores(self, arm: str, metric: str) -> Floats:
        """Each row's own score, (rows,): 1 where nothing was to find and nothing claimed."""
        a, m = self.arms.index(arm), list(self.metrics).index(metric)
        return np.nan_to_num(ratio(self.numerators[:, a, m], self.denominators[:, a, m]), nan=1.0)

    def weights(self, arm: str, metric: str) -> Floats:
        """How much each row counts in the arm's metric, (rows,)."""
        return self.denominators[:, self.arms.index(arm), list(self.metrics).index(metric)]


def build_scores(
    metrics: Sequence[Metric],
    answers: Mapping[str, Sequence[str]],
    golds: Sequence[str],
    group_ids: Sequence[str],
    strata: Mapping[str, Sequence[str]],
) -> Scores:
    """Scores every arm's answers.

    Args:
        metrics: In the order of the report.
        answers: By arm, one a row.
        golds: One a row.
        group_ids: One a row.
        strata: One value a row, by field.
    """
    tables = [score_rows(metrics, texts, golds) for texts in answers.values()]
    gold = score_rows(metrics, golds, golds)

    def array(rows: list[dict[str, Part]], field: int) -> Floats:
        return np.array([[row[m.name][field] for m in metrics] for row in rows], dtype=np.float64)

    shape = (len(golds), 0, len(metrics))
    return Scores(
        metrics={m.name: m for m in metrics},
        arms=tuple(answers),
        numerators=np.stack([array(t, 0) for t in tables], axis=1) if tables else np.zeros(shape),
        denominators=np.stack([array(t, 1) for t in tables], axis=1) if tables else np.zeros(shape),
        attainable=array(gold, 1),
        group_ids=np.array(group_ids, dtype=np.str_),
        strata={name: np.array(values, dtype=np.str_) for name, values in strata.items()},
    )


class ScoreSlice:
    """Some rows of a benchmark. Bootstrap samples are drawn once, for all arms and metrics.

    Args:
        scores: The benchmark.
        mask: Which rows, (rows,).
    """

    def __init__(self, scores: Scores, mask: npt.NDArray[np.bool_]) -> None:
        self.scores = scores
        self.rows = int(mask.sum())
        self.numerators, self.denominators = scores.numerators[mask], scores.denominators[mask]
        self.attainable = scores.attainable[mask].sum(axis=0)
        self.group_of_row, self.groups = group_numbers(scores.group_ids[mask])

    def value(self, arm: str, metric: str) -> float:
        """One arm's metric without an interval; NaN where the slice has nothing to measure."""
        a, m = self._arm(arm), self._metric(metric)
        if not self._measurable(m, self.denominators[:, a, m] > 0):
            return math.nan
        return float(ratio(self.numerators[:, a, m].sum(), self.denominators[:, a, m].sum()))

    def best(self, arms: Sequence[str], metric: str) -> str | None:
        """The arm with the highest value; None of none."""
        return max(arms, key=lambda arm: np.nan_to_num(self.value(arm, metric), nan=-1.0), default=None)

    def level(self, arm: str, metric: str, alpha: float) -> Estimate:
        """One arm's metric with its interval.

        Args:
            arm: Its name.
            metric: Its name.
            alpha: Two-sided error of the interval.
        """
        a, m = self._arm(arm), self._metric(metric)
        counting = self.denominators[:, a, m] > 0
        if not self._measurable(m, counting):
            return self._nothing(counting)
        value = self.value(arm, metric)
        effective = self._effective(self.numerators[:, a, m] - value * self.denominators[:, a, m], counting)
        if self.scores.metrics[metric].binary:
            low, high = proportion(value * effective, effective, alpha)
            boundary = value in (0.0, 1.0)
            error = math.sqrt(value * (1 - value) / effective)
            method = "rule of three" if boundary else "Wilson"
            return self._estimate(value, Interval(low, high), counting, effective, error, method)
        replicates = ratio(*self._replicates[:, :, a, m].T)
        error = float(np.nanstd(replicates))
        jackknife = ratio(*self._jackknife[:, :, a, m].T)
        interval, method = self._bca(value, replicates, jackknife, alpha, counting), "BCa bootstrap"
        if error == 0:
            bound = zero_count_bound(effective, alpha if value in (0.0, 1.0) else alpha / 2)
            interval, method = Interval(max(0.0, value - bound), min(1.0, value + bound)), "rule of three"
        return self._estimate(value, interval, counting, effective, error, method)

    def difference(self, arm: str, reference: str, metric: str, alpha: float) -> Estimate:
        """`arm` minus `reference` on the same rows.

        Args:
            arm: Its name.
            reference: The other arm's name.
            metric: Its name.
            alpha: Two-sided error of the interval.
        """
        a, r, m = self._arm(arm), self._arm(reference), self._metric(metric)
        counting = (self.denominators[:, a, m] > 0) | (self.denominators[:, r, m] > 0)
        if not self._measurable(m, counting):
            return self._nothing(counting)
        if self.scores.metrics[metric].binary:
            return self._binary_difference(a, r, m, counting, alpha)
        value = self.value(arm, metric) - self.value(reference, metric)
        replicates = ratio(*self._replicates[:, :, a, m].T) - ratio(*self._replicates[:, :, r, m].T)
        jackknife = ratio(*self._jackknife[:, :, a, m].T) - ratio(*self._jackknife[:, :, r, m].T)
        error = float(np.nanstd(replicates)) if np.isfinite(replicates).any() else math.nan
        interval, method = self._bca(value, replicates, jackknife, alpha, counting), "paired BCa bootstrap"
        effective = float(len(np.unique(self.group_of_row[counting])))
        wins, losses = self._wins_and_losses(a, r, m)
        if wins + losses < FEW_DIFFERENCES:
            # A bounded score differs by at most 1 in a row, as an outcome of 0 or 1 does.
            sparse = tango(wins, losses, effective, alpha)
            interval = Interval(min(interval.lower, sparse.lower), max(interval.upper, sparse.upper))
            method = "paired BCa bootstrap and Tango score" if error else "Tango score"
        return self._estimate(value, interval, counting, effective, error, method)

    def _wins_and_losses(self, a: int, r: int, m: int) -> tuple[int, int]:
        """Groups in which one arm adds more to the metric than the other, (first arm ahead, second arm ahead)."""
        num, den = self._sums[:, 0, :, m], self._sums[:, 1, :, m]
        balance = num[:, a] * den[:, r] - num[:, r] * den[:, a]
        # A claim where nothing was to find (0/1 against 0/0) loses, though both numerators are 0.
        balance = np.where(balance == 0, den[:, r] - den[:, a], balance)
        return int((balance > 0).sum()), int((balance < 0).sum())

    def _binary_difference(self, a: int, r: int, m: int, counting: npt.NDArray[np.bool_], alpha: float) -> Estimate:
        results = self.numerators[:, a, m] - self.numerators[:, r, m]
        n = float(len(results))
        effective = self._effective(results - results.mean(), counting)
        scale = effective / n
        wins, losses = float((results > 0).sum()), float((results < 0).sum())
        interval = tango(wins * scale, losses * scale, effective, alpha)
        value, discordance = (wins - losses) / n, (wins + losses) / n
        error = math.sqrt(max(0.0, discordance - value**2) / effective)
        by_group = group_sums(results[:, None], self.group_of_row, self.groups)[:, 0].astype(np.int_)
        estimate = self._estimate(value, interval, counting, effective, error, "Tango score")
        return estimate._replace(p_value=mcnemar(by_group), discordance=discordance)

    def _bca(
        self, value: float, replicates: Floats, jackknife: Floats, alpha: float, counting: npt.NDArray[np.bool_]
    ) -> Interval:
        groups = len(np.unique(self.group_of_row[counting]))
        return bca(value, replicates, jackknife, expanded(alpha, groups))

    @cached_property
    def _sums(self) -> Floats:
        """(groups, 2, arms, metrics): numerators and denominators by group."""
        both = np.stack([self.numerators, self.denominators], axis=1)
        flat = group_sums(both.reshape(self.rows, -1), self.group_of_row, self.groups)
        return flat.reshape(self.groups, *both.shape[1:])

    @cached_property
    def _replicates(self) -> Floats:
        totals = resample(self._sums.reshape(self.groups, -1), self.scores.resamples)
        return totals.reshape(-1, *self._sums.shape[1:])

    @cached_property
    def _jackknife(self) -> Floats:
        return leave_one_out(self._sums)

    def _arm(self, name: str) -> int:
        return self.scores.arms.index(name)

    def _metric(self, name: str) -> int:
        return list(self.scores.metrics).index(name)

    def _measurable(self, m: int, counting: npt.NDArray[np.bool_]) -> bool:
        return bool(counting.any()) and self.attainable[m] > 0

    def _effective(self, deviations: Floats, counting: npt.NDArray[np.bool_]) -> float:
        names, numbers = np.unique(self.group_of_row[counting], return_inverse=True)
        return effective_rows(deviations[counting], numbers, len(names))

    def _nothing(self, counting: npt.NDArray[np.bool_]) -> Estimate:
        nan = math.nan
        return self._estimate(nan, Interval(nan, nan), counting, 0.0, nan, "nothing to measure")

    def _estimate(
        self,
        value: float,
        interval: Interval,
        counting: npt.NDArray[np.bool_],
        effective: float,
        error: float,
        method: str,
    ) -> Estimate:
        groups = len(np.unique(self.group_of_row[counting]))
        return Estimate(value, *interval, int(counting.sum()), groups, effective, error, method)
