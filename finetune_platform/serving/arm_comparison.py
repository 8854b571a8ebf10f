"""An A/B test in figures: side B (the canary's place) against the champion, by confidence sequences.

The counts are the gateways' own (`traffic.py`), the statistics `sequential.py`'s. Nothing is decided here: a rollout's
evidence, on which shares move by themselves, is `rollout_evidence.py`'s.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.sequential import Bounds, difference_bounds
from finetune_platform.serving import routes
from finetune_platform.serving.arm_traffic import arm_counts, champion_arms, slow_limit_before
from finetune_platform.serving.overview import figures_of
from finetune_platform.serving.plan import BASE
from finetune_platform.serving.rollout_evidence import ArmCounts, Outcomes
from finetune_platform.serving.rollouts import GRACE
from finetune_platform.serving.routes import Span
from finetune_platform.serving.traffic import BUCKET_S, bucket_of, last_closed, told, total
from finetune_platform.task import Task
from finetune_platform.task_serving import Guardrail

GOOD = "good_answers"
BAD: tuple[Guardrail, ...] = ("errors", "latency", "valid_format", "refusals", "feedback")
MEASURES: tuple[str, ...] = (GOOD, *BAD)


class Window(NamedTuple):
    """A time in which both sides had constant shares: what they did in it may be added up and compared."""

    adapter: str
    share: float
    champion: str | None
    since: datetime
    until: datetime | None


def comparison_of(database: Database, task: Task, now: datetime | None = None) -> dict[str, Any]:
    """The A/B test under way, or else the last one, JSON.

    Counted is from the last change of the share or of the champion on: across one, a difference between the hours
    would look like one between the sides. All intervals together hold, at every look, with probability
    1 - `rollout.alpha`: each gets its part of the error.

    Args:
        database: Where routes and counts are.
        task: Its file.
        now: Until when it is counted; in UTC.

    Returns:
        `window` (the sides, their shares and times), `sides` (each one's figures, as in an overview), `measures`
        (name, each side's n and rate, `observed` difference B minus champion, `lower` and `upper` bound; for
        `good_answers` higher is better, for the others lower; `latency` is the share of slow answers), `slow_above_ms`
        and `verdict` (`better`, `worse` or `open`, by the share of good answers).

    Raises:
        BadInput: The task never had an A/B test or canary.
    """
    now = now or datetime.now(UTC)
    window = _window(routes.history(database, task.name), task.name)
    after = bucket_of(window.since)
    until = last_closed(now, GRACE) if window.until is None else bucket_of(window.until) - timedelta(seconds=BUCKET_S)
    with database.reading() as session:
        rows = told(session, task.name, after, until)
        limit_ms = slow_limit_before(session, task.name, window.champion, after)
    b = total(rows, window.adapter, ("canary",))
    champion = total(rows, window.champion or BASE, champion_arms(window.champion))
    measures = _measures(arm_counts(b, limit_ms), arm_counts(champion, limit_ms), task.rollout.alpha)
    return {
        "task": task.name,
        "window": {
            "adapter": window.adapter,
            "share": window.share,
            "champion": window.champion,
            "since": window.since.isoformat(timespec="seconds"),
            "until": window.until.isoformat(timespec="seconds") if window.until else None,
        },
        "sides": {"b": figures_of(b), "champion": figures_of(champion)},
        "measures": measures,
        "slow_above_ms": limit_ms,
        "alpha": task.rollout.alpha,
        "verdict": _verdict(measures[0]),
    }


def _window(spans: Sequence[Span], task: str) -> Window:
    trials = [span for span in spans if span.arm == "canary"]
    if not trials:
        raise BadInput(
            f"{task}: it never had an A/B test", f"`finetune route ab {task} ADAPTER --share 50 --reason …` starts one"
        )
    b = max(trials, key=lambda span: (span.until is None, span.since))
    beside = [span for span in spans if span.arm in ("champion", "base") and _overlap(span, b)]
    if not beside:
        # It answers everything: there is nobody to compare it with.
        return Window(b.adapter_id, b.share, None, b.since, b.until)
    champion = max(beside, key=lambda span: span.since)
    adapter = None if champion.arm == "base" else champion.adapter_id
    ends = [end for end in (b.until, champion.until) if end is not None]
    return Window(b.adapter_id, b.share, adapter, max(b.since, champion.since), min(ends, default=None))


def _overlap(one: Span, other: Span) -> bool:
    return (one.until is None or one.until > other.since) and (other.until is None or one.since < other.until)


def _measures(b: ArmCounts, champion: ArmCounts, alpha: float) -> list[dict[str, Any]]:
    part = alpha / len(MEASURES)
    good = _measure(GOOD, Outcomes(b.n, b.good), Outcomes(champion.n, champion.good), part)
    return [good, *(_measure(name, b.outcomes(name), champion.outcomes(name), part) for name in BAD)]


def _measure(name: str, b: Outcomes, champion: Outcomes, alpha: float) -> dict[str, Any]:
    bounds = difference_bounds(b.n, b.bad, champion.n, champion.bad, alpha) if b.n and champion.n else Bounds(-1.0, 1.0)
    return {
        "name": name,
        "b": b.rate,
        "b_n": b.n,
        "champion": champion.rate,
        "champion_n": champion.n,
        "observed": b.rate - champion.rate if b.rate is not None and champion.rate is not None else None,
        "lower": bounds.lower,
        "upper": bounds.upper,
    }


def _verdict(good: dict[str, Any]) -> str:
    if good["lower"] > 0:
        return "better"
    return "worse" if good["upper"] < 0 else "open"
