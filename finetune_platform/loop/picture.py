"""The cycle as a ring: where each station and each arrow stands in the picture, in its own units.

What it looks like is the template's and `loop.css`'s.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from finetune_platform.loop.stations import MARKS, State, Station, here

WIDTH, HEIGHT = 600, 390
RING, KNOB, HERE = 138.0, 24.0, 29.0
"""Radii: of the ring, of a station, of the one where the cycle stands."""

GAP = 9.0
"""Between an arrow and the stations that it joins."""

TONES: Mapping[State, str] = {
    "idle": "idle",
    "quiet": "good",
    "done": "good",
    "waiting": "watch",
    "running": "busy",
    "alarm": "bad",
    "failed": "bad",
}


class Knob(NamedTuple):
    """A station in the picture: its circle, and where its words begin, end or are centred (`anchor`)."""

    station: Station
    x: float
    y: float
    radius: float
    words_x: float
    words_y: float
    anchor: str
    is_here: bool


class Picture(NamedTuple):
    """The whole ring; `arrows` are SVG paths, each from a station to the next."""

    knobs: list[Knob]
    arrows: list[str]
    here: Station
    told: str

    @property
    def view_box(self) -> str:
        return f"0 0 {WIDTH} {HEIGHT}"


def picture_of(stations: Sequence[Station]) -> Picture:
    """The ring of a task's stations, the first at the top, clockwise."""
    now = here(list(stations))
    turns = [2 * math.pi * number / len(stations) for number in range(len(stations))]
    radii = [HERE if station is now else KNOB for station in stations]
    knobs = [_knob(station, turn, r, station is now) for station, turn, r in zip(stations, turns, radii, strict=True)]
    step = 2 * math.pi / len(stations)
    arrows = [
        _arc(turn + (radius + GAP) / RING, turn + step - (after + GAP + 3) / RING)
        for turn, radius, after in zip(turns, radii, [*radii[1:], radii[0]], strict=True)
    ]
    told = "; ".join(f"{station.name}: {station.state}" for station in stations)
    return Picture(knobs, arrows, now, told)


def mark(state: State) -> str:
    """A state's sign."""
    return MARKS[state]


def tone(state: State) -> str:
    """A state's colour, by the name that the style has for it."""
    return TONES[state]


def _knob(station: Station, turn: float, radius: float, is_here: bool) -> Knob:
    x, y = _at(turn)
    side = round(math.sin(turn), 6)
    words_x, words_y = x + math.copysign(radius + (15 if is_here else 10), side), y
    anchor = "start" if side > 0 else "end"
    if side == 0:
        words_x, words_y, anchor = x, y - radius - 26, "middle"
    return Knob(station, x, y, radius, round(words_x, 1), round(words_y, 1), anchor, is_here)


def _arc(begin: float, end: float) -> str:
    (x, y), (to_x, to_y) = _at(begin), _at(end)
    return f"M{x} {y}A{RING:g} {RING:g} 0 0 1 {to_x} {to_y}"


def _at(turn: float) -> tuple[float, float]:
    return round(WIDTH / 2 + RING * math.sin(turn), 1), round(HEIGHT / 2 + 22 - RING * math.cos(turn), 1)
