"""Evidence over time as geometry: positions in percent of a plot, which the template draws as inline SVG."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from finetune_platform.drift.report import Look

LEAST_TOP = 3.0
"""Decades above 1 that a plot shows at least: the limit then has room above it."""

MOST_TOP = 12.0
"""Decades that it shows at most: an alarm of a thousand decades would flatten all others."""

SPOKE = 2.0

DECADES = 3
"""Between two lines of the grid."""


class Point(NamedTuple):
    """One look: `x` and `y` in percent from the left and from the top, and what a reader is told."""

    x: float
    y: float
    text: str
    over: bool


class Curve(NamedTuple):
    """One channel's evidence, or the mean of all.

    Attributes:
        line: SVG path data in a box of 100 by 100.
        newest: Its last value in words.
        spoke: Whether it ever was well above 1.
        over: Whether its last value is above the limit.
    """

    title: str
    points: list[Point]
    line: str
    newest: str
    spoke: bool
    over: bool


class Plots(NamedTuple):
    """Curves on one scale: `limit` and `grid` lie at percents from the top."""

    mean: Curve
    channels: list[Curve]
    limit: float
    grid: list[tuple[float, str]]


def evidence_plots(history: Sequence[Look], limit: float) -> Plots:
    """The mean and each channel over all looks, the loudest channel first.

    Args:
        history: At least one look.
        limit: Evidence at which the alarm rings.
    """
    names = sorted(history[-1].channels, key=lambda name: -history[-1].channels[name])
    largest = max(value for look in history for value in (look.e_value, *look.channels.values()))
    top = min(max(_decades(largest), _decades(limit) + 0.5, LEAST_TOP), MOST_TOP)
    return Plots(
        mean=_curve("mean of all channels", history, [look.e_value for look in history], top, limit),
        channels=[
            _curve(name, history, [look.channels.get(name, 1.0) for look in history], top, limit) for name in names
        ],
        limit=_height(limit, top),
        grid=[
            # What lies beyond the top is drawn there.
            (_height(10.0**power, top), ("≥" if power == MOST_TOP < _decades(largest) else "") + power_of_ten(power))
            for power in range(0, int(top) + 1, DECADES)
        ],
    )


def evidence(value: float) -> str:
    """`1.3`, `2,410`, `1.5 × 10²⁷`."""
    if value < 1e6:
        return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
    power = math.floor(math.log10(value))
    return f"{value / 10.0**power:.1f}\u00a0×\u00a0{power_of_ten(power)}"


def power_of_ten(power: int) -> str:
    """`1`, `10³`."""
    return "1" if power == 0 else "10" + str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _curve(title: str, history: Sequence[Look], values: Sequence[float], top: float, limit: float) -> Curve:
    points = [
        Point(
            round(100 * (number + 0.5) / len(values), 2),
            _height(value, top),
            f"{look.until[:16].replace('T', ' ')} UTC: {evidence(value)}",
            value >= limit,
        )
        for number, (look, value) in enumerate(zip(history, values, strict=True))
    ]
    line = " ".join(f"{'M' if not number else 'L'}{point.x} {point.y}" for number, point in enumerate(points))
    return Curve(title, points, line, evidence(values[-1]), max(values) >= SPOKE, values[-1] >= limit)


def _height(value: float, top: float) -> float:
    return round(100 * (1.0 - min(_decades(value), top) / top), 2)


def _decades(value: float) -> float:
    return math.log10(max(value, 1.0))
