"""What evidence does to a rollout: stay, next step, finish, hold or roll back. Pure: counts and the time come in.

Operations by hand are in `rollout_operations.py`, the statistics in `sequential.py`; writing progress down, changing
routes and telling people belong to the caller.
"""

from datetime import datetime, timedelta
from typing import Literal

from finetune_platform.manifests import Record
from finetune_platform.sequential import difference_bounds
from finetune_platform.serving.rollout_evidence import ArmCounts, margin_alone, watch
from finetune_platform.serving.rollout_progress import (
    GuardrailView,
    Progress,
    comparison,
    guardrail_views,
    margin_of_step,
)
from finetune_platform.serving.rollout_words import counted, guardrail_words, hours, success_words
from finetune_platform.task_serving import Rollout

Action = Literal["stay", "promote_step", "finish", "hold", "roll_back", "abort"]

CLEARED = 0.5
"""A guardrail is cleared when even the best bet against the canary is worth less than this share of its stake."""


class Decision(Record):
    """What to do now. `progress` is to be stored before the action is taken: a crash between both repeats nothing.

    `message` says why, in plain words with the figures.
    """

    action: Action
    progress: Progress
    message: str


def advance(progress: Progress, rollout: Rollout, canary: ArmCounts, champion: ArmCounts, now: datetime) -> Decision:
    """What one tick's counts change.

    Roll back when a guardrail's e-value reaches (number of guardrails) / alpha, in any phase, held or not. Take the
    next step when this one lasted `hold_hours`, the canary answered `min_n` requests in it, the lower confidence bound
    of its share of good requests minus the champion's lies above -margin, and every measured guardrail is cleared
    (see `_open`). Hold when that takes `timeout_hours`; never promote for want of evidence. The shadow phase needs its
    hours and an answer.

    At 100% nothing answers beside the canary: its counts are compared to the champion's that were gathered before (see
    `comparison`, `GuardrailEvidence.without_champion`), and the champion's counts of the tick are left out.

    Args:
        progress: As stored after the last tick.
        rollout: The task's rules.
        canary: What the canary did since the last tick.
        champion: What the champion (or what stands in its place) did in the same time.
        now: Aware time of the tick.
    """
    if not progress.active:
        return Decision(action="stay", progress=progress, message=f"the rollout is {progress.state}")
    after = _counted(progress, rollout, canary, champion)
    views = guardrail_views(after, rollout)
    if tripped := [v for v in views if v.e_value >= v.limit]:
        reason = f"rolled back at {after.place}: " + "; ".join(guardrail_words(v) for v in tripped)
        return Decision(action="roll_back", progress=after.ending("rolled_back", reason, now), message=reason)
    if after.state == "held":
        return Decision(action="stay", progress=after, message=f"held at {after.place}: {after.reason}")
    lacking = _lacking(after, rollout, now) or _undecided(after, rollout, views)
    if not lacking and rollout.automatic:
        return promotion(after, rollout, now)
    if lacking and now - (after.waiting_since or now) >= _patience(after, rollout):
        reason = f"no decision within {hours(_patience(after, rollout))}: " + "; ".join(lacking)
        held = after.model_copy(update={"state": "held", "reason": reason})
        return Decision(action="hold", progress=held, message=f"held at {after.place}: {reason}")
    waits = "; ".join(lacking) if lacking else "ready for the next step, which a person takes"
    return Decision(action="stay", progress=after, message=f"at {after.place}: {waits}")


def promotion(progress: Progress, rollout: Rollout, now: datetime, by_hand: str = "") -> Decision:
    """The next step, or the end after the last; `by_hand` is why, where a person decided."""
    why = by_hand or (
        f"the shadow phase lasted {hours(progress.lasted(now))}, {counted(progress.step_canary.n, 'answer')}"
        if progress.shadow
        else f"{counted(progress.step_canary.n, 'request')} in {hours(progress.lasted(now))}; "
        + success_words(comparison(progress, rollout), margin_of_step(progress, rollout))
    )
    if not progress.shadow and progress.step + 1 == len(progress.steps):
        reason = f"promoted to champion: {why}"
        return Decision(action="finish", progress=progress.ending("promoted", reason, now), message=reason)
    before = progress.place
    after = progress.entering(0 if progress.shadow else progress.step + 1, now)
    return Decision(action="promote_step", progress=after, message=f"from {before} to {after.place}: {why}")


def _counted(progress: Progress, rollout: Rollout, canary: ArmCounts, champion: ArmCounts) -> Progress:
    beside = None if progress.alone else champion
    update = {
        "guardrails": watch(progress.guardrails, rollout, canary, beside),
        "canary": progress.canary.plus(canary),
        "step_canary": progress.step_canary.plus(canary),
    }
    if beside is not None:
        update["champion"] = progress.champion.plus(beside)
        update["step_champion"] = progress.step_champion.plus(beside)
    return progress.model_copy(update=update)


def _lacking(progress: Progress, rollout: Rollout, now: datetime) -> list[str]:
    """Time and requests that the step still needs."""
    lasted, asked = progress.lasted(now), _hold(progress, rollout)
    needed = 1 if progress.shadow else rollout.min_n
    lacking = []
    if lasted < asked:
        lacking.append(f"{hours(lasted)} of {hours(asked)}")
    if progress.step_canary.n < needed:
        lacking.append(f"{progress.step_canary.n:,} of {counted(needed, 'canary request')}")
    return lacking


def _undecided(progress: Progress, rollout: Rollout, views: list[GuardrailView]) -> list[str]:
    """Evidence that the step still needs; nobody is shown what the shadow phase would let through."""
    if progress.shadow:
        return []
    undecided = []
    compared, margin = comparison(progress, rollout), margin_of_step(progress, rollout)
    if compared.observed is None or compared.bounds.lower <= -margin:
        undecided.append(success_words(compared, margin))
    return undecided + [f"not yet clear: {guardrail_words(v)}" for v in views if _open(v, progress, rollout)]


def _open(view: GuardrailView, progress: Progress, rollout: Rollout) -> bool:
    """Whether a guardrail can neither take the canary back nor let it go on.

    It is cleared when all bets against the canary have lost, or when the confidence sequence of its bad rate minus the
    champion's lies below the margin (the short way where bad outcomes are rare). Without this a drop in what is
    measured seldom, as users' words are, would be promoted before it can be seen.
    """
    if not view.champion.n:
        return False
    evidence = progress.guardrails[view.guardrail].evidence
    if evidence.best_return < CLEARED:
        return False
    bounds = difference_bounds(*view.canary, *view.champion, rollout.alpha)
    rate = view.champion.bad / view.champion.n
    return bounds.upper >= (margin_alone(rate, rollout.margin) if progress.alone else rollout.margin)


def _hold(progress: Progress, rollout: Rollout) -> timedelta:
    return timedelta(hours=rollout.shadow_hours if progress.shadow else rollout.hold_hours)


def _patience(progress: Progress, rollout: Rollout) -> timedelta:
    """A shadow phase may be longer than the time-out: it gets that time on top of its own."""
    return timedelta(hours=rollout.timeout_hours) + (_hold(progress, rollout) if progress.shadow else timedelta(0))
