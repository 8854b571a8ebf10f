"""Where a rollout's figures lie on small drawings: positions in percent of their width."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from finetune_platform.serving.page.figures import count, e_value, hours, points, rate
from finetune_platform.serving.page.verdicts import GUARDRAILS, Tone
from finetune_platform.serving.rollout_words import BAD_OUTCOMES
from finetune_platform.task import Task

LEAST = 0.1
"""Left end of the evidence's scale; the right end is `BEYOND` times the limit."""

BEYOND = 4.0


class Difference(NamedTuple):
    """The canary's share of good answers minus the champion's, and where the drawing puts it."""

    sentence: str
    tone: Tone
    observed: float | None
    lower: float
    upper: float
    zero: float
    limit: float
    ends: tuple[str, str]
    limit_words: str


class Rail(NamedTuple):
    """One guardrail's evidence against the canary."""

    name: str
    words: str
    evidence: str
    tone: Tone
    at: float
    even: float
    limit: float


class Step(NamedTuple):
    """One place of a rollout: `state` is done, now, stopped or later."""

    label: str
    state: str


def difference_of(rollout: Mapping[str, Any]) -> Difference:
    """The comparison of this step."""
    told = rollout["difference"]
    observed, lower, upper, limit = (told[k] for k in ("observed", "lower", "upper", "must_exceed"))
    reach = min(1.0, 1.15 * max(abs(lower), abs(upper), 2 * abs(limit)))

    def at(value: float) -> float:
        return round(50 * (1 + value / reach), 2)

    sentence, tone = _difference_words(observed, lower, upper, limit, rollout["state"] in ("running", "held"))
    return Difference(
        sentence,
        tone,
        None if observed is None else at(observed),
        at(lower),
        at(upper),
        at(0),
        at(limit),
        (f"{points(-reach)} points", f"{points(reach)} points"),
        points(limit),
    )


def _difference_words(
    observed: float | None, lower: float, upper: float, limit: float, active: bool
) -> tuple[str, Tone]:
    if observed is None:
        return "Nothing to compare yet: both sides must have answered.", "idle"
    seen = f"Good answers: {points(observed)} points against the champion, surely between {points(lower)} and "
    seen += f"{points(upper)}"
    if lower > limit and active:
        return f"{seen}. Good enough for the next step: all of it lies above {points(limit)}.", "good"
    if upper < 0:
        return f"{seen}. The canary is worse.", "bad"
    if not active:
        return f"{seen}.", "idle"
    return f"{seen}. Not sure enough for the next step: that takes more than {points(limit)}.", "idle"


def rails_of(rollout: Mapping[str, Any]) -> list[Rail]:
    """Every guardrail."""
    return [_rail(rail) for rail in rollout["guardrails"]]


def _rail(rail: Mapping[str, Any]) -> Rail:
    value, limit = rail["e_value"], rail["limit"]
    low, high = math.log10(LEAST), math.log10(BEYOND * limit)

    def at(e: float) -> float:
        return round(min(100.0, max(0.0, 100 * (math.log10(max(e, 1e-300)) - low) / (high - low))), 2)

    tone: Tone = "bad" if value >= limit else "watch" if value >= math.sqrt(limit) else "good"
    name = GUARDRAILS[rail["name"]]
    if not rail["canary_n"]:
        words, tone = "nothing measured yet", "idle"
    else:
        bad = BAD_OUTCOMES[rail["name"]]
        champion = f"champion {rate(rail['champion'])} of {count(rail['champion_n'])}"
        words = f"{rate(rail['canary'])} of {count(rail['canary_n'])} {bad}, {champion}"
    return Rail(
        name[0].upper() + name[1:], words, f"{e_value(value)} of {limit:.0f}", tone, at(value), at(1), at(limit)
    )


def steps_of(rollout: Mapping[str, Any], task: Task) -> list[Step]:
    """The way of a rollout, with where it stands."""
    places = [f"{step}%" for step in rollout["steps"]]
    if rollout["place"] == "shadow" or task.rollout.shadow_hours > 0:
        places.insert(0, "shadow")
    here = places.index(rollout["place"])
    state = rollout["state"]
    if state == "promoted":
        return [*(Step(place, "done") for place in places), Step("champion", "done")]
    now = "now" if state in ("running", "held", "pending") else "stopped"
    steps = [Step(p, "done" if i < here else now if i == here else "later") for i, p in enumerate(places)]
    return [*steps, Step("champion", "later")]


def time_in_step(rollout: Mapping[str, Any]) -> tuple[str, float]:
    """How long the step has lasted, in words, and as a share of its hold time in percent."""
    lasted, hold = rollout["hours_in_step"], rollout["hold_hours"]
    return f"{hours(lasted)} of {hours(hold)}", min(100.0, 100 * lasted / hold) if hold else 100.0


def requests_in_step(rollout: Mapping[str, Any]) -> tuple[str, float]:
    """The canary's requests in the step, in words, and as a share of those needed, in percent."""
    n, needed = rollout["canary_requests"], rollout["min_n"]
    return f"{count(n)} of {count(needed)}", min(100.0, 100 * n / needed)
