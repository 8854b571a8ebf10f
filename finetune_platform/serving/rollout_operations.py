"""What a person does to a rollout: start, step, hold, resume, abort, roll back. Pure, like `rollout_rules.py`.

Who may do it and how it is recorded belongs to the caller. A person may promote without evidence; a guardrail may take
back what a person promoted.
"""

from datetime import datetime

from finetune_platform.errors import BadInput
from finetune_platform.serving.rollout_progress import Progress, State
from finetune_platform.serving.rollout_rules import Decision, promotion
from finetune_platform.task_serving import Rollout


def start(progress: Progress, rollout: Rollout, now: datetime) -> Decision:
    """Begins the shadow phase where the task asks for one, else the first step.

    Raises:
        BadInput: It has started before.
    """
    _refuse_unless(progress, "start", "pending")
    after = progress.entering(0, now)
    if rollout.shadow_hours > 0:
        after = after.model_copy(update={"shadow": True})
    return Decision(action="promote_step", progress=after, message=f"started at {after.place}")


def step(progress: Progress, rollout: Rollout, reason: str, now: datetime) -> Decision:
    """The next step, or the promotion after the last, whatever the evidence says; a held rollout runs again.

    Raises:
        BadInput: The rollout is not under way.
    """
    _refuse_unless(progress, "step", "running", "held")
    return promotion(progress, rollout, now, by_hand=f"by hand: {reason}")


def hold(progress: Progress, reason: str) -> Decision:
    """Keeps the share as it is; guardrails go on watching.

    Raises:
        BadInput: The rollout is not running.
    """
    _refuse_unless(progress, "hold", "running")
    after = progress.model_copy(update={"state": "held", "reason": reason})
    return Decision(action="hold", progress=after, message=f"held at {after.place}: {reason}")


def resume(progress: Progress, now: datetime) -> Decision:
    """Goes on from a hold with the evidence gathered so far; the time-out starts anew.

    Raises:
        BadInput: The rollout is not held.
    """
    _refuse_unless(progress, "resume", "held")
    after = progress.model_copy(update={"state": "running", "reason": "", "waiting_since": now})
    return Decision(action="stay", progress=after, message=f"resumed at {after.place}")


def abort(progress: Progress, reason: str, now: datetime) -> Decision:
    """Ends the rollout without a verdict on the adapter: another rollout of it may follow.

    Raises:
        BadInput: The rollout has ended.
    """
    _refuse_unless(progress, "abort", "pending", "running", "held")
    message = f"aborted at {progress.place}: {reason}" if progress.active else f"aborted before the start: {reason}"
    return Decision(action="abort", progress=progress.ending("aborted", message, now), message=message)


def roll_back(progress: Progress, reason: str, now: datetime) -> Decision:
    """Takes the adapter back: it is to answer nothing any more.

    Raises:
        BadInput: The rollout is not under way.
    """
    _refuse_unless(progress, "roll back", "running", "held")
    message = f"rolled back at {progress.place} by hand: {reason}"
    return Decision(action="roll_back", progress=progress.ending("rolled_back", message, now), message=message)


_MENDS: dict[State, str] = {
    "pending": "start it first, or abort it",
    "running": "hold, step, roll back or abort it",
    "held": "resume, step, roll back or abort it",
    "promoted": "the adapter is champion: roll out the previous one, or kill the task's traffic to the fallback",
    "rolled_back": "start a rollout of another adapter",
    "aborted": "start a new rollout of the adapter",
}


def _refuse_unless(progress: Progress, operation: str, *states: State) -> None:
    if progress.state not in states:
        state = progress.state.replace("_", " ")
        raise BadInput(f"rollout: cannot {operation}, it is {state}", _MENDS[progress.state])
