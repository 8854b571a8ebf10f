"""Estimates of quality over time as geometry: positions in percent of a plot, drawn by the template as inline SVG."""

from collections.abc import Sequence
from typing import NamedTuple

from finetune_platform.manifests_drift import PerformancePoint, PerformanceRecord

ROOM = 0.05
"""Part of the scale that stays free above and below."""


class Bar(NamedTuple):
    """One look: `x` from the left, `y` of the estimate and the ends of its interval from the top, in percent."""

    x: float
    y: float
    top: float
    bottom: float
    text: str


class QualityPlot(NamedTuple):
    """One metric over its looks; `baseline` and `level` lie at percents from the top, None where there is none."""

    record: PerformanceRecord
    bars: list[Bar]
    baseline: float | None
    level: float | None


def quality_plots(found: Sequence[PerformanceRecord], history: Sequence[PerformancePoint]) -> list[QualityPlot]:
    """A plot for each metric, each on a scale of its own."""
    return [_plot(record, [point for point in history if point.metric == record.metric]) for record in found]


def _plot(record: PerformanceRecord, points: Sequence[PerformancePoint]) -> QualityPlot:
    known = [value for value in (record.baseline, record.level) if value is not None]
    shown = [*known, *(p.lower for p in points), *(p.upper for p in points)]
    if not shown:
        return QualityPlot(record, [], None, None)
    low, high = min(shown), max(shown)
    room = ROOM * (high - low) or ROOM

    def height(value: float) -> float:
        return round(100 * (high + room - value) / (high - low + 2 * room), 2)

    bars = [
        Bar(
            round(100 * (number + 0.5) / len(points), 2),
            height(point.estimate),
            height(point.upper),
            height(point.lower),
            f"{point.moment[:16].replace('T', ' ')} UTC: {point.estimate:.3f} ({point.lower:.3f} to {point.upper:.3f})",
        )
        for number, point in enumerate(points)
    ]
    at = [None if value is None else height(value) for value in (record.baseline, record.level)]
    return QualityPlot(record, bars, at[0], at[1])
