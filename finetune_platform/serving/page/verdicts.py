"""One sentence a task: who answers, and whether anything speaks against the canary."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from finetune_platform.serving.page.figures import percent
from finetune_platform.serving.plan import Plan

Tone = Literal["good", "watch", "bad", "idle"]
RECENT = timedelta(days=1)
"""How long the sentence tells of a rollout that has ended."""

GUARDRAILS = {
    "errors": "errors",
    "latency": "slow answers",
    "valid_format": "wrong formats",
    "refusals": "refusals",
    "feedback": "bad ratings",
}


class Verdict(NamedTuple):
    """`parts` are pairs of an arm ("" for plain words) and text."""

    tone: Tone
    badge: str
    parts: list[tuple[str, str]]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.parts)


class Judgement(NamedTuple):
    """What the guardrails say together."""

    tone: Tone
    words: str


def verdict_of(
    plan: Plan, rollout: Mapping[str, Any] | None, *, away: bool = False, now: datetime | None = None
) -> Verdict:
    """The sentence.

    Args:
        plan: What is in force at this gateway.
        rollout: The newest one, as `overview.rollout_of` tells it.
        away: The database does not answer, so that this gateway asks no canary.
        now: The moment.
    """
    if plan.killed is not None:
        stopped = ("base", "the base model"), ("", f" answers everything, all adapters are stopped: “{plan.killed}”")
        return Verdict("bad", "killed", list(stopped))
    parts = _who(plan)
    if rollout is None:
        badge = "serving" if plan.champion else "no adapter"
        return Verdict("good" if plan.champion else "idle", badge, parts)
    if rollout["state"] in ("running", "held"):
        return _under_way(rollout, parts, away and plan.canary is None and plan.shadow is None)
    return _ended(plan, rollout, parts, now or datetime.now(UTC))


def judgement(rollout: Mapping[str, Any]) -> Judgement:
    """Whether anything speaks against the canary: evidence half way to the limit does, on the scale of the drawing."""
    rails = rollout["guardrails"]
    tripped = [r for r in rails if r["e_value"] >= r["limit"]]
    if tripped:
        return Judgement("bad", f"{_names(tripped)} took it back")
    if not any(r["canary_n"] for r in rails):
        return Judgement("good", "no evidence yet")
    if against := [r for r in rails if r["e_value"] >= math.sqrt(r["limit"])]:
        verb = "speaks" if len(against) == 1 and not GUARDRAILS[against[0]["name"]].endswith("s") else "speak"
        return Judgement("watch", f"{_names(against)} {verb} against it")
    return Judgement("good", "nothing speaks against it")


def _who(plan: Plan) -> list[tuple[str, str]]:
    arm, name = ("champion", plan.champion) if plan.champion else ("base", "the base model")
    share = plan.canary_share if plan.canary else 0.0
    if plan.canary and share >= 1:
        return [("", "the canary "), ("canary", plan.canary), ("", " answers everything")]
    if plan.canary and share > 0:
        canary = [("", ", the canary "), ("canary", plan.canary), ("", f" {percent(share)}")]
        return [(arm, name or ""), ("", f" answers {percent(1 - share)}"), *canary]
    parts = [(arm, name or ""), ("", " answers everything")]
    if plan.shadow and plan.shadow_share:
        parts += [("", ", "), ("shadow", plan.shadow), ("", " answers copies that nobody is shown")]
    return parts


def _under_way(rollout: Mapping[str, Any], parts: list[tuple[str, str]], resting: bool) -> Verdict:
    judged = judgement(rollout)
    state = rollout["state"]
    if resting:
        rests = f"; the canary {rollout['adapter_id']} rests until the database answers again"
        return Verdict("watch", "resting", [*parts, ("", rests)])
    tone: Tone = "watch" if state == "held" and judged.tone == "good" else judged.tone
    return Verdict(tone, state, [*parts, ("", f"; {state}, {judged.words}")])


def _ended(plan: Plan, rollout: Mapping[str, Any], parts: list[tuple[str, str]], now: datetime) -> Verdict:
    if now - datetime.fromisoformat(rollout["updated_at"]) > RECENT:
        return Verdict("good" if plan.champion else "idle", "serving" if plan.champion else "no adapter", parts)
    words = {"promoted": "was promoted", "rolled_back": "was rolled back", "aborted": "was aborted"}
    state = rollout["state"]
    if state == "promoted" and rollout["adapter_id"] not in plan.withdrawn:
        return Verdict("good", "promoted", parts)
    what = "the rollout of " if state == "aborted" else "the canary "
    told = f"; {what}{rollout['adapter_id']} {words.get(state, state)}"
    if state == "promoted":
        told = f"; {rollout['adapter_id']} was promoted and then taken back"
    return Verdict("watch" if state != "aborted" else "idle", state.replace("_", " "), [*parts, ("", told)])


def _names(rails: list[Mapping[str, Any]]) -> str:
    names = [GUARDRAILS[rail["name"]] for rail in rails]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
