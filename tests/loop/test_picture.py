"""The ring: every station once, nothing on top of another or outside."""

import math

import pytest

from finetune_platform.loop.picture import GAP, HEIGHT, RING, WIDTH, picture_of
from finetune_platform.loop.stations import Name, State, Station

NAMES: tuple[Name, ...] = ("champion", "drift", "experts", "labels", "retraining", "evaluation", "rollout")
WIDEST_LETTER = 12.0


def stations(busy: Name | None = None, state: State = "alarm") -> list[Station]:
    return [Station(name=name, state=state if name == busy else "idle") for name in NAMES]


@pytest.mark.parametrize("busy", [None, *NAMES])
def test_the_ring_is_where_it_belongs(busy: Name | None) -> None:
    picture = picture_of(stations(busy))
    assert [knob.station.name for knob in picture.knobs] == list(NAMES)
    assert [knob.station.name for knob in picture.knobs if knob.is_here] == [busy or "champion"] == [picture.here.name]
    top = picture.knobs[0]
    assert top.x == WIDTH / 2 and all(knob.y > top.y for knob in picture.knobs[1:])
    for one, other in zip(picture.knobs, [*picture.knobs[1:], top], strict=True):
        assert math.dist((one.x, one.y), (other.x, other.y)) > one.radius + other.radius + 2 * GAP
    for knob in picture.knobs:
        reach = WIDEST_LETTER * len(knob.station.name) * {"start": 1, "end": -1, "middle": 0.5}[knob.anchor]
        assert 0 <= knob.words_x + reach <= WIDTH and 18 <= knob.words_y <= HEIGHT - 20
        assert knob.y + knob.radius < HEIGHT
    assert len(picture.arrows) == len(NAMES) and all(f"A{RING:g}" in arrow for arrow in picture.arrows)


def test_what_a_reader_hears_names_every_state() -> None:
    told = picture_of(stations("labels", "waiting")).told
    assert "labels: waiting" in told and told.count("idle") == 6
