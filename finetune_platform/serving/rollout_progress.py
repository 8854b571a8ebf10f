"""Everything that a rollout remembers between two ticks, and what a person reads from it.

Plain values that survive a round trip through JSON; how they change stands in `rollout_rules.py` (by evidence) and
`rollout_operations.py` (by hand).
"""

from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from finetune_platform.manifests import Record
from finetune_platform.sequential import Bounds, difference_bounds
from finetune_platform.serving.rollout_evidence import ArmCounts, GuardrailEvidence, Outcomes, margin_alone
from finetune_platform.task_serving import Guardrail, Rollout

State = Literal["pending", "running", "held", "promoted", "rolled_back", "aborted"]
TERMINAL: tuple[State, ...] = ("promoted", "rolled_back", "aborted")


class Progress(Record):
    """A rollout's memory.

    Attributes:
        state: Where it stands. A held one keeps its share and its guardrails.
        steps: Shares in percent, as they were when the rollout was made.
        step: Index of the step, in [0, len(steps)).
        shadow: The canary answers copies that nobody is shown; `step` is 0.
        step_started_at: When the step, or the shadow phase, began.
        waiting_since: When the time-out began to run: with the step, or when a person resumed it.
        ended_at: When a terminal state was reached.
        reason: Why it is held or ended.
        slow_limit_ms: Above it an answer is slow: picked from the champion's traffic before the rollout.
        guardrails: Evidence by guardrail, over the whole rollout.
        step_canary: The canary's counts in this step.
        step_champion: The champion's: a step's share is constant, so that both saw the same hours.
        canary: The canary's counts in the whole rollout.
        champion: The champion's, as far as both answered; from the 100% step on they are frozen.
    """

    state: State = "pending"
    steps: list[int]
    step: int = 0
    shadow: bool = False
    step_started_at: datetime | None = None
    waiting_since: datetime | None = None
    ended_at: datetime | None = None
    reason: str = ""
    slow_limit_ms: float | None = None
    guardrails: dict[Guardrail, GuardrailEvidence] = {}
    step_canary: ArmCounts = ArmCounts()
    step_champion: ArmCounts = ArmCounts()
    canary: ArmCounts = ArmCounts()
    champion: ArmCounts = ArmCounts()

    @property
    def active(self) -> bool:
        """Whether the canary answers requests, or copies of them."""
        return self.state in ("running", "held")

    @property
    def percent(self) -> int:
        """Share of the sessions that the canary answers, in percent; a promoted adapter is a canary no more."""
        return self.steps[self.step] if self.active and not self.shadow else 0

    @property
    def alone(self) -> bool:
        """Whether no champion answers beside the canary."""
        return self.percent == 100

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return "shadow" if self.shadow else f"{self.steps[self.step]}%"

    def entering(self, step: int, now: datetime) -> "Progress":
        """At the beginning of a step that people are shown."""
        return self.model_copy(
            update={
                "state": "running",
                "shadow": False,
                "step": step,
                "step_started_at": now,
                "waiting_since": now,
                "reason": "",
                "step_canary": ArmCounts(),
                "step_champion": ArmCounts(),
            }
        )

    def ending(self, state: State, reason: str, now: datetime) -> "Progress":
        """In a terminal state."""
        return self.model_copy(update={"state": state, "reason": reason, "ended_at": now})

    def lasted(self, now: datetime) -> timedelta:
        """How long the step, or the shadow phase, has been under way."""
        return timedelta(0) if self.step_started_at is None else now - self.step_started_at


class GuardrailView(NamedTuple):
    """One guardrail as a person reads it: rollback at `limit`."""

    guardrail: Guardrail
    e_value: float
    limit: float
    canary: Outcomes
    champion: Outcomes


class Comparison(NamedTuple):
    """Share of good requests, canary minus champion, in [-1, 1]; None before both answered."""

    observed: float | None
    bounds: Bounds


def new_progress(rollout: Rollout, slow_limit_ms: float | None = None) -> Progress:
    """A rollout that has not started.

    Args:
        rollout: The rules; its steps are kept, so that an edit of the task file moves no running share.
        slow_limit_ms: From `latency_bins.slow_limit_ms` of the champion's latest traffic; None: not compared.
    """
    return Progress(steps=list(rollout.steps), slow_limit_ms=slow_limit_ms)


def limit_of(rollout: Rollout) -> float:
    """E-value at which a guardrail rolls back: any of k reaches k/alpha with probability alpha at most."""
    return len(rollout.guardrails) / rollout.alpha


def guardrail_views(progress: Progress, rollout: Rollout) -> list[GuardrailView]:
    """Every configured guardrail, with the rates of the whole rollout."""
    return [
        GuardrailView(
            name,
            progress.guardrails.get(name, GuardrailEvidence()).evidence.e_value,
            limit_of(rollout),
            progress.canary.outcomes(name),
            progress.champion.outcomes(name),
        )
        for name in rollout.guardrails
    ]


def margin_of_step(progress: Progress, rollout: Rollout) -> float:
    """How far below the champion's the share of good requests may lie; wider at 100% (see `margin_alone`)."""
    champion = progress.champion
    if not (progress.alone and champion.n):
        return rollout.margin
    return margin_alone(1.0 - champion.good / champion.n, rollout.margin)


def comparison(progress: Progress, rollout: Rollout) -> Comparison:
    """This step's share of good requests against the champion's.

    At 100% no champion answers any more: the canary's is compared to everything that the champion answered beside it
    before, frozen.
    """
    canary = progress.step_canary
    champion = progress.champion if progress.alone else progress.step_champion
    bounds = difference_bounds(canary.n, canary.good, champion.n, champion.good, rollout.alpha)
    observed = canary.good / canary.n - champion.good / champion.n if canary.n and champion.n else None
    return Comparison(observed, bounds)
