"""Traffic and latency over time as shapes in percent of a drawing's width and height; templates draw them.

Text is not part of the drawing, so that it stays readable on a phone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from finetune_platform.serving.latency_bins import slow_limit_ms
from finetune_platform.serving.page.figures import count, milliseconds
from finetune_platform.serving.page.minutes import minute_of
from finetune_platform.serving.plan import ARMS
from finetune_platform.serving.traffic import Counts, Told

SHOWN = tuple(arm for arm in ARMS if arm != "shadow")
"""Arms whose answers people are shown; they add up to the traffic."""

TICKS = 4
ENOUGH = 20
"""Answers that a point of the latency plot stands for, if so many were given in the `ENOUGH_BINS` before it."""

ENOUGH_BINS = 15


class Span(NamedTuple):
    """How far back a plot goes, in bins of some minutes, with a label every some bins."""

    name: str
    bins: int
    minutes: int
    label_every: int

    @property
    def length(self) -> timedelta:
        return timedelta(minutes=self.bins * self.minutes)


HOUR = Span("1 h", 60, 1, 15)
DAY = Span("24 h", 144, 10, 36)
SPANS = {span.name: span for span in (HOUR, DAY)}

Bins = dict[str, list[Counts]]


class Shape(NamedTuple):
    """A line (`points` of an SVG polyline, in percent) or an area (`closed`) of one arm."""

    arm: str
    kind: str
    points: str
    closed: bool


class Plot(NamedTuple):
    """One drawing: `y_ticks` and `x_ticks` are pairs of a position in percent and a label; `columns` are what one
    reads by pointing at a bin."""

    title: str
    summary: str
    shapes: list[Shape]
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, datetime]]
    columns: list[dict[str, Any]]
    marks: list[dict[str, Any]]
    arms: list[str]


def plots_of(traffic: Sequence[Told], history: Sequence[Mapping[str, Any]], span: Span, now: datetime) -> list[Plot]:
    """Requests a minute, and latency.

    Args:
        traffic: By the minute.
        history: As `overview.history_of` tells it: changes are marked.
        span: How far back.
        now: The moment; the bin that it lies in is not shown, it would look like a fall.
    """
    start = _start(span, now)
    bins = _binned(traffic, start, span)
    frame = _Frame(start, span, _marks(history, start, span))
    return [_requests(bins, frame), _latency(bins, frame)] if bins else []


class _Frame(NamedTuple):
    start: datetime
    span: Span
    marks: list[dict[str, Any]]

    def at(self, i: int) -> datetime:
        return self.start + timedelta(minutes=i * self.span.minutes)

    def x(self, i: float) -> float:
        return round(100 * i / self.span.bins, 2)

    def x_ticks(self) -> list[tuple[float, datetime]]:
        step = self.span.label_every
        return [(self.x(i), self.at(i)) for i in range(0, self.span.bins + 1, step)]


def _start(span: Span, now: datetime) -> datetime:
    """Start of the first bin, so that the last one is over."""
    end = minute_of(now)
    end -= timedelta(minutes=(end.hour * 60 + end.minute) % span.minutes)
    return end - span.length


def _binned(traffic: Sequence[Told], start: datetime, span: Span) -> Bins:
    """Counts by arm, one a bin; arms without a request are left out."""
    bins: Bins = {}
    for row in traffic:
        i = math.floor((row.bucket - start) / timedelta(minutes=span.minutes))
        if 0 <= i < span.bins and row.counts.n:
            bins.setdefault(row.key.arm, [Counts() for _ in range(span.bins)])[i].add(row.counts)
    return {arm: bins[arm] for arm in ARMS if arm in bins}


def _requests(bins: Bins, frame: _Frame) -> Plot:
    minutes = frame.span.minutes
    rates = {arm: [c.n / minutes for c in counts] for arm, counts in bins.items()}
    stacked = [arm for arm in SHOWN if arm in rates]
    totals = [sum(rates[arm][i] for arm in stacked) for i in range(frame.span.bins)]
    top = _round_top(max([*totals, *rates.get("shadow", [])]))
    shapes, below = [], [0.0] * frame.span.bins
    for arm in stacked:
        above = [a + b for a, b in zip(below, rates[arm], strict=True)]
        shapes.append(Shape(arm, "area", _area(below, above, top, frame), True))
        below = above
    if "shadow" in rates:
        shapes.append(Shape("shadow", "dashed", _lines(list(rates["shadow"]), top, frame)[0], False))
    columns = _columns(bins, frame, lambda arm, i: f"{_rate(rates[arm][i])} / min")
    summary = f"{_rate(sum(totals) / len(totals))} requests a minute on average, at most {_rate(max(totals))}"
    ticks = _y_ticks(top, _rate)
    return Plot("Requests per minute", summary, shapes, ticks, frame.x_ticks(), columns, frame.marks, list(bins))


def _latency(bins: Bins, frame: _Frame) -> Plot:
    answers = {arm: _gathered(counts) for arm, counts in bins.items()}
    p50 = {arm: [slow_limit_ms(latency, 0.5) for latency in answers[arm]] for arm in bins}
    p95 = {arm: [slow_limit_ms(latency, 0.95) for latency in answers[arm]] for arm in bins}
    top = _round_top(max((v for line in p95.values() for v in line if v is not None), default=1.0))
    shapes = [
        Shape(arm, kind, points, False)
        for kind, lines in (("dashed", p95), ("line", p50))
        for arm in bins
        for points in _lines(lines[arm], top, frame)
    ]
    columns = _columns(bins, frame, lambda arm, i: f"{milliseconds(p50[arm][i])}, p95 {milliseconds(p95[arm][i])}")
    newest = [f"{arm} {_newest(p50[arm])}, p95 {_newest(p95[arm])}" for arm in bins]
    return Plot(
        "Latency",
        "; ".join(newest),
        shapes,
        _y_ticks(top, milliseconds),
        frame.x_ticks(),
        columns,
        frame.marks,
        list(bins),
    )


def _gathered(counts: Sequence[Counts]) -> list[list[int]]:
    """Each bin's histogram of latencies, with as many bins before it as it takes to tell a quantile."""
    gathered = []
    for i in range(len(counts)):
        latency = list(counts[i].latency)
        for earlier in range(i - 1, max(-1, i - ENOUGH_BINS), -1):
            if sum(latency) >= ENOUGH:
                break
            latency = [a + b for a, b in zip(latency, counts[earlier].latency, strict=True)]
        gathered.append(latency)
    return gathered


def _newest(line: Sequence[float | None]) -> str:
    return milliseconds(next((value for value in reversed(line) if value is not None), None))


def _marks(history: Sequence[Mapping[str, Any]], start: datetime, span: Span) -> list[dict[str, Any]]:
    """Where the route changed, with what began then; changes closer than two bins share a mark."""
    marks: list[dict[str, Any]] = []
    for change in history:
        since = datetime.fromisoformat(change["since"])
        x = 100 * ((since - start) / span.length)
        if not 0 < x < 100:
            continue
        told = f"{change['arm']} {change['adapter_id']} {100 * change['share']:g}%"
        if marks and x - marks[-1]["x"] < 200 / span.bins:
            marks[-1]["told"] += f", {told}"
        else:
            marks.append({"x": round(x, 2), "told": told, "at": since})
    return marks


def _columns(bins: Bins, frame: _Frame, words: Callable[[str, int], str]) -> list[dict[str, Any]]:
    return [
        {
            "x": frame.x(i),
            "width": frame.x(1),
            "at": frame.at(i),
            "left": i > frame.span.bins / 2,
            "rows": [(arm, words(arm, i)) for arm, counts in bins.items() if counts[i].n],
        }
        for i in range(frame.span.bins)
        if any(counts[i].n for counts in bins.values())
    ]


def _area(below: Sequence[float], above: Sequence[float], top: float, frame: _Frame) -> str:
    ahead = [(frame.x(i + 0.5), _y(v, top)) for i, v in enumerate(above)]
    back = [(frame.x(i + 0.5), _y(v, top)) for i, v in reversed(list(enumerate(below)))]
    return _points([*ahead, *back])


def _lines(values: Sequence[float | None], top: float, frame: _Frame) -> list[str]:
    """Stretches without a gap; a lone value is a short dash."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for i, value in enumerate(values):
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append((frame.x(i + 0.5), _y(value, top)))
    half = frame.x(0.4)
    widened = [s if len(s) > 1 else [(s[0][0] - half, s[0][1]), (s[0][0] + half, s[0][1])] for s in stretches if s]
    return [_points(stretch) for stretch in widened]


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in pairs)


def _y(value: float, top: float) -> float:
    return round(100 * (1 - value / top), 2)


def _y_ticks(top: float, words: Callable[[float], str]) -> list[tuple[float, str]]:
    return [(100 * i / TICKS, words(top * i / TICKS) if i else "0") for i in range(TICKS + 1)]


def _round_top(value: float) -> float:
    """The next number whose quarters are round."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 6, 8, 10, 12) if step * power >= value)


def _rate(value: float) -> str:
    return count(round(value)) if value >= 10 else f"{value:.1f}".removesuffix(".0")
