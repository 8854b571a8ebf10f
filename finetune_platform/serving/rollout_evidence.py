"""What one tick counted of each arm, and what that says of each guardrail.

When evidence is enough stands in `rollout_rules.py`; the statistics are in `sequential.py`.
"""

from typing import NamedTuple

from pydantic import Field, model_validator

from finetune_platform.manifests import Record
from finetune_platform.sequential import HigherRate, rate_bounds
from finetune_platform.serving.latency_bins import LATENCY_BINS_MS as LATENCY_BINS_MS
from finetune_platform.task_serving import Guardrail, Rollout

WINDOW_N = 300
"""Champion's outcomes in one window: as short as a peak of the day on a busy task, long enough for a bound."""


GROSS = 1.5
"""Times the champion's worst rate that a canary which answers everything may reach: equal canaries whose users grow
unhappier by a tenth each day were rolled back in 21% of simulated rollouts without it, in 1% with it."""


def margin_alone(rate: float, margin: float) -> float:
    """How far above a champion's rate of bad outcomes a canary may lie when no champion answers beside it."""
    return max(margin, (GROSS - 1.0) * rate)


class ArmCounts(Record):
    """What one arm answered in one tick, or in several added up.

    A request's outcomes are counted for the adapter that should have answered it: a canary's error stays the canary's
    where the champion helped out, and that help is counted for neither. Feedback is counted when it comes.

    Attributes:
        n: Requests.
        good: Requests without error, in valid format (where that is known) and not refused.
        errors: Requests that failed.
        timed_n: Requests measured against the rollout's latency limit.
        slow: Those of them above it.
        format_n: Answers whose format is checked: those of tasks with an output pattern.
        invalid_format: Those of them in another format.
        refusals: Answers that refuse.
        feedback_n: Words of users.
        feedback_negative: Those of them that are bad.
    """

    n: int = Field(default=0, ge=0)
    good: int = Field(default=0, ge=0)
    errors: int = Field(default=0, ge=0)
    timed_n: int = Field(default=0, ge=0)
    slow: int = Field(default=0, ge=0)
    format_n: int = Field(default=0, ge=0)
    invalid_format: int = Field(default=0, ge=0)
    refusals: int = Field(default=0, ge=0)
    feedback_n: int = Field(default=0, ge=0)
    feedback_negative: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def parts_fit_into_wholes(self) -> "ArmCounts":
        if self.errors + max(self.good, self.refusals) > self.n:
            raise ValueError("errors, and answers that are good or refused, are parts of n")
        for name, part, whole in (
            ("slow", self.slow, self.timed_n),
            ("invalid_format", self.invalid_format, self.format_n),
            ("feedback_negative", self.feedback_negative, self.feedback_n),
        ):
            if part > whole:
                raise ValueError(f"{name} is {part}, more than the {whole} that it is a part of")
        return self

    def plus(self, other: "ArmCounts") -> "ArmCounts":
        return ArmCounts.model_construct(**{name: getattr(self, name) + getattr(other, name) for name in _COUNTS})

    def outcomes(self, guardrail: Guardrail) -> "Outcomes":
        """What a guardrail looks at; n is 0 where it cannot be measured."""
        if guardrail == "errors":
            return Outcomes(self.n, self.errors)
        if guardrail == "latency":
            return Outcomes(self.timed_n, self.slow)
        if guardrail == "valid_format":
            return Outcomes(self.format_n, self.invalid_format)
        if guardrail == "refusals":
            return Outcomes(self.n - self.errors, self.refusals)
        return Outcomes(self.feedback_n, self.feedback_negative)


_COUNTS = tuple(ArmCounts.model_fields)


class Outcomes(NamedTuple):
    """Outcomes of one guardrail, and how many of them are bad."""

    n: int
    bad: int

    @property
    def rate(self) -> float | None:
        return self.bad / self.n if self.n else None


class GuardrailEvidence(Record):
    """One guardrail's memory.

    Attributes:
        evidence: E-process for "the canary's rate is not higher than the champion's".
        window_n: Champion's outcomes in the window under way.
        window_bad: Bad ones among them.
        champion_at_worst: Highest upper bound of the champion's rate over all windows; None before the first is full.
    """

    evidence: HigherRate = HigherRate()
    window_n: int = 0
    window_bad: int = 0
    champion_at_worst: float | None = None

    def beside_champion(self, canary: Outcomes, champion: Outcomes, alpha: float) -> "GuardrailEvidence":
        """After a tick in which both arms answered; `alpha` is the error of one window's bound."""
        n, bad = self.window_n + champion.n, self.window_bad + champion.bad
        worst = self.champion_at_worst
        if n >= WINDOW_N:
            upper = rate_bounds(n, bad, alpha).upper
            worst, n, bad = upper if worst is None else max(worst, upper), 0, 0
        return GuardrailEvidence.model_construct(
            evidence=self.evidence.seen(*canary, *champion), window_n=n, window_bad=bad, champion_at_worst=worst
        )

    def without_champion(self, canary: Outcomes, margin: float) -> "GuardrailEvidence":
        """After a tick in which the canary answered everything.

        It is compared to the champion at its worst so far, plus `margin` or `GROSS` times as high: rates move with the
        hour and the week, and nothing beside the canary shows by how much, so only a gross failure can be told.
        """
        if self.champion_at_worst is None:
            return self
        worst = self.champion_at_worst
        evidence = self.evidence.seen_alone(*canary, worst + margin_alone(worst, margin))
        return self.model_copy(update={"evidence": evidence})


Watched = dict[Guardrail, GuardrailEvidence]


def watch(watched: Watched, rollout: Rollout, canary: ArmCounts, champion: ArmCounts | None) -> Watched:
    """Every configured guardrail's evidence after one tick.

    Args:
        watched: Evidence so far; a guardrail that is not in it starts now.
        rollout: The rules.
        canary: Counts of the tick.
        champion: Counts of the tick; None where the canary answers everything.
    """
    after: Watched = {}
    for name in rollout.guardrails:
        before, outcomes = watched.get(name, GuardrailEvidence()), canary.outcomes(name)
        if champion is None:
            after[name] = before.without_champion(outcomes, rollout.margin)
        else:
            alpha = rollout.alpha / len(rollout.guardrails)
            after[name] = before.beside_champion(outcomes, champion.outcomes(name), alpha)
    return after
