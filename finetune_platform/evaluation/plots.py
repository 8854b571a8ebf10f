"""The report's plots as geometry: positions in percent of the plot's width, which the template draws as inline SVG.

Percent positions keep text at its size on a phone, where a scaled drawing would shrink it. What the numbers mean is
decided in `evidence.py`, colours and shapes by the template.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from finetune_platform.evaluation.evidence import BenchmarkEvidence, Value

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


class Mark(NamedTuple):
    """One dot with its whiskers.

    Attributes:
        arm: Chooses colour and shape.
        x: Of the dot, percent of the width.
        low: Left end of the whisker.
        high: Right end.
        text: What a pointer or a screen reader is told.
    """

    arm: str
    x: float
    low: float
    high: float
    text: str


class PlotRow(NamedTuple):
    """One line of a plot: label on the left, marks below each other, a value on the right."""

    label: str
    marks: list[Mark]
    value: str


class Panel(NamedTuple):
    """Rows that share an axis. `ticks` are (percent, label); `zero` is where a reference line stands."""

    title: str
    rows: list[PlotRow]
    ticks: list[tuple[float, str]]
    zero: float | None


class Axis:
    """A linear axis.

    Args:
        low: Value at the left end.
        high: Value at the right end.
        step: Between ticks.
        unit: Behind each tick's number.
    """

    def __init__(self, low: float, high: float, step: float, unit: str = "") -> None:
        self.low, self.high, self.step, self.unit = low, high, step, unit

    @classmethod
    def around(cls, values: Sequence[float], unit: str = "", intervals: int = 4) -> "Axis":
        """Round limits that hold `values` and 0, with about `intervals` ticks."""
        low, high = min([0.0, *values]), max([0.0, *values])
        if low == high:
            return cls(0.0, 1.0, 1.0 / intervals, unit)
        raw = (high - low) / intervals
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(s * power for s in STEPS if s * power >= raw - 1e-12)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step, unit)

    def at(self, value: float) -> float:
        """Position of `value` in percent, held inside the axis."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self) -> list[tuple[float, str]]:
        count = round((self.high - self.low) / self.step)
        values = [self.low + i * self.step for i in range(count + 1)]
        return [(self.at(v), f"{_plain(v, self.step)}{self.unit}") for v in values]


def metric_panels(benchmark: BenchmarkEvidence, titles: dict[str, str]) -> list[Panel]:
    """Each metric by arm, with its interval, on a common axis from 0 to 1."""
    axis = Axis(0.0, 1.0, 0.25)
    return [
        Panel(
            title,
            [
                PlotRow(arm.title, _marks(axis, arm.name, arm.title, arm.metrics[name]), _value(arm.metrics[name]))
                for arm in benchmark.arms
            ],
            axis.ticks(),
            None,
        )
        for name, title in titles.items()
    ]


def difference_panels(benchmark: BenchmarkEvidence, titles: dict[str, str]) -> list[Panel]:
    """The candidate minus each other arm, by metric, with a line at 0."""
    names = {arm.name: arm.title for arm in benchmark.arms}
    found = [v for c in benchmark.comparisons for v in c.metrics.values()]
    axis = Axis.around([end for v in found for end in (v.lower, v.upper) if end is not None])
    return [
        Panel(
            title,
            [
                PlotRow(
                    f"vs {names[c.reference]}",
                    _marks(axis, c.reference, f"New adapter minus {names[c.reference]}", c.metrics[name], signed=True),
                    _value(c.metrics[name], signed=True),
                )
                for c in benchmark.comparisons
            ],
            axis.ticks(),
            axis.at(0.0),
        )
        for name, title in titles.items()
    ]


def stratum_panel(benchmark: BenchmarkEvidence, metric: str, title: str) -> Panel | None:
    """One metric of every arm in every stratum; None where the rows have no strata."""
    axis = Axis(0.0, 1.0, 0.25)
    titles = {arm.name: arm.title for arm in benchmark.arms}
    rows = []
    for stratum in benchmark.strata:
        marks = [m for arm, v in stratum.arms.items() for m in _marks(axis, arm, titles[arm], v[metric])]
        label = stratum.slice.replace("=", ": ").replace("_", " ")
        rows.append(PlotRow(label, marks, f"{stratum.rows} rows" if marks else "nothing to measure"))
    return Panel(title, rows, axis.ticks(), None) if rows else None


def latency_panel(benchmark: BenchmarkEvidence) -> Panel | None:
    """Median, 95th and 99th percentile of every arm that runs a model; None where none does."""
    arms = [arm for arm in benchmark.arms if arm.usage.latency_ms]
    if not arms:
        return None
    axis = Axis.around([arm.usage.latency_ms["p99"] / 1000 for arm in arms], " s")
    rows = []
    for arm in arms:
        p50, p95, p99 = (arm.usage.latency_ms[p] / 1000 for p in ("p50", "p95", "p99"))
        text = f"{arm.title}: half within {p50:.2f} s, 95% within {p95:.2f} s, 99% within {p99:.2f} s"
        mark = Mark(arm.name, axis.at(p50), axis.at(p50), axis.at(p99), text)
        rows.append(PlotRow(arm.title, [mark], f"{p50:.2f} · {p95:.2f} · {p99:.2f} s"))
    return Panel("Latency: median · 95% · 99%", rows, axis.ticks(), None)


def _marks(axis: Axis, arm: str, title: str, value: Value, signed: bool = False) -> list[Mark]:
    if value.value is None or value.lower is None or value.upper is None:
        return []
    text = f"{title}: {_value(value, signed)}"
    return [Mark(arm, axis.at(value.value), axis.at(value.lower), axis.at(value.upper), text)]


def _value(value: Value, signed: bool = False) -> str:
    if value.value is None or value.lower is None or value.upper is None:
        return "nothing to measure"
    spec = "+.2f" if signed else ".2f"
    return f"{value.value:{spec}} [{value.lower:{spec}}, {value.upper:{spec}}]".replace("-", "−")


def _plain(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += abs(round(step, digits) - step) > step / 100
    return f"{value:.{digits}f}".replace("-", "−") if abs(value) > step / 1000 else "0"
