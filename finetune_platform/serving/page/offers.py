"""The buttons: what an operator may do now, what will happen, and why a button is not offered.

Doing it is `operator_api.perform`'s.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from finetune_platform.serving.operator_api import Action
from finetune_platform.serving.page.figures import percent
from finetune_platform.serving.plan import Plan

BASE = "the base model"


class Offer(NamedTuple):
    """One button; `refusal` says why it cannot be pressed, "" where it can.

    `applies` is whether it makes sense now, whoever looks.
    """

    action: Action
    label: str
    consequence: str
    refusal: str
    applies: bool


def offers_of(
    plan: Plan, rollout: Mapping[str, Any] | None, *, may_change: bool, database_is_away: bool
) -> dict[Action, Offer]:
    """Every action with its words.

    Args:
        plan: What is in force.
        rollout: The newest one, as `overview.rollout_of` tells it.
        may_change: Whether the viewer may change routes.
        database_is_away: Then a kill alone is possible.
    """
    state = rollout["state"] if rollout else None
    made = [
        _step(plan, rollout),
        _offer("hold", "Hold", _hold_words(rollout), state == "running", "No rollout is running."),
        _offer("resume", "Resume", _resume_words(rollout), state == "held", "No rollout is held."),
        _abort(plan, rollout),
        _roll_back(plan, rollout),
        _demote(plan),
        _kill(plan),
        _revive(plan),
    ]
    return {offer.action: _permitted(offer, may_change, database_is_away) for offer in made}


def place_of(rollout: Mapping[str, Any] | None, plan: Plan) -> tuple[Any, ...]:
    """What somebody who presses a button takes for granted: it must still be so when the reason is typed."""
    kept = (rollout["rollout_id"], rollout["state"], rollout["place"]) if rollout else ()
    return (*kept, plan.champion, plan.killed)


def _permitted(offer: Offer, may_change: bool, database_is_away: bool) -> Offer:
    if not may_change:
        return offer._replace(refusal="Your key may look but not change anything.")
    if database_is_away and offer.action != "kill":
        return offer._replace(refusal="The database does not answer; only a kill is possible.")
    return offer


def _offer(action: Action, label: str, consequence: str, possible: bool, refusal: str) -> Offer:
    return Offer(action, label, consequence, "" if possible else refusal, possible)


def _under_way(rollout: Mapping[str, Any] | None) -> bool:
    return rollout is not None and rollout["state"] in ("running", "held")


def _step(plan: Plan, rollout: Mapping[str, Any] | None) -> Offer:
    if rollout is None or not _under_way(rollout):
        return Offer("step", "Next step", "", "No rollout is under way.", False)
    canary, steps = rollout["adapter_id"], rollout["steps"]
    if rollout["place"] == "shadow":
        words = f"{canary} answers {steps[0]}% of the sessions from now on, and people see its answers."
        return Offer("step", f"Next step: {steps[0]}%", f"{words} The guardrails go on watching.", "", True)
    later = [step for step in steps if step > rollout["percent"]]
    if later:
        words = f"{canary} answers {later[0]}% of the sessions instead of {rollout['percent']}%"
        return Offer("step", f"Next step: {later[0]}%", f"{words}, whatever the evidence says. {WATCHED}", "", True)
    fallback = f"{plan.champion} stays ready as the first fallback." if plan.champion else ""
    words = f"{canary} becomes champion and answers everything. Its rollout ends: no guardrail watches it any more."
    return Offer("step", "Promote to champion", f"{words} {fallback}".strip(), "", True)


WATCHED = "The guardrails go on watching and may still take it back."


def _hold_words(rollout: Mapping[str, Any] | None) -> str:
    place = rollout["place"] if rollout else ""
    return f"The rollout stays at {place} until somebody resumes it or takes the next step. {WATCHED}"


def _resume_words(rollout: Mapping[str, Any] | None) -> str:
    place = rollout["place"] if rollout else ""
    return f"The rollout goes on at {place} with the evidence gathered so far; its time-out starts anew."


def _abort(plan: Plan, rollout: Mapping[str, Any] | None) -> Offer:
    canary = rollout["adapter_id"] if rollout else ""
    words = f"The rollout ends without a verdict: {_champion(plan)} answers everything again, and {canary} may be "
    possible = _under_way(rollout) or (rollout is not None and rollout["state"] == "pending")
    return _offer("abort", "Abort", f"{words}rolled out anew at any time.", possible, "No rollout is under way.")


def _roll_back(plan: Plan, rollout: Mapping[str, Any] | None) -> Offer:
    canary = rollout["adapter_id"] if rollout else ""
    words = f"{canary} answers nothing any more, on every gateway within a second. {_champion(plan)} answers "
    rest = "everything. Nothing lets it in again but a rollout that a person starts."
    words = words.replace(". the", ". The")
    return _offer("rollback", "Roll back", words + rest, _under_way(rollout), "No rollout is under way.")


def _demote(plan: Plan) -> Offer:
    then = plan.previous_champion or BASE
    words = f"{plan.champion} answers nothing any more, on every gateway within a second; {then} answers in its place."
    return _offer("demote", "Demote champion", words, plan.champion is not None, "No adapter is champion.")


def _kill(plan: Plan) -> Offer:
    words = (
        "All traffic of the task goes to the base model with the engineered prompt, on every gateway within a second. "
        "No adapter answers until somebody revives the task."
    )
    return _offer("kill", "Kill", words, plan.killed is None, "The task is killed already.")


def _revive(plan: Plan) -> Offer:
    share = plan.canary_share if plan.canary else 0.0
    canary = f", the canary {plan.canary} {percent(share)}" if share else ""
    words = f"The kill ends: {_champion(plan)} answers {percent(1 - share)}{canary}."
    return _offer("revive", "Revive", words, plan.killed is not None, "The task is not killed.")


def _champion(plan: Plan) -> str:
    return plan.champion or BASE
