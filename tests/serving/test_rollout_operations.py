"""Rollouts under any sequence of ticks and operations, each step stored and read back as after a crash."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from finetune_platform.errors import BadInput
from finetune_platform.serving.rollout_evidence import ArmCounts
from finetune_platform.serving.rollout_operations import abort, hold, resume, roll_back, start, step
from finetune_platform.serving.rollout_progress import TERMINAL, Progress, new_progress
from finetune_platform.serving.rollout_rules import Decision, advance
from finetune_platform.task_serving import Rollout

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
RULES = Rollout(hold_hours=1, timeout_hours=8, min_n=50, shadow_hours=0.5)


@st.composite
def arm_counts(draw: st.DrawFn) -> ArmCounts:
    n = draw(st.sampled_from([0, 1, 40, 1000]))
    errors = draw(st.sampled_from([0, n // 50, n]))
    answered = n - errors
    invalid = draw(st.sampled_from([0, answered // 30, answered // 2]))
    refusals = draw(st.sampled_from([0, answered // 100]))
    words = draw(st.sampled_from([0, 3, 30]))
    return ArmCounts(
        n=n,
        good=max(0, answered - invalid - refusals),
        errors=errors,
        timed_n=answered,
        slow=draw(st.sampled_from([0, answered // 10, answered])),
        format_n=answered,
        invalid_format=invalid,
        refusals=refusals,
        feedback_n=words,
        feedback_negative=draw(st.integers(0, words)),
    )


class RolloutMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.progress = new_progress(RULES, slow_limit_ms=500.0)
        self.now = BEGIN
        self.ended: str | None = None

    def take(self, decision: Decision) -> None:
        before, after = self.progress, decision.progress
        if self.ended:
            assert after.state == self.ended and decision.action == "stay"
        stored = json.loads(json.dumps(after.model_dump(mode="json"), allow_nan=False))
        self.progress = Progress.model_validate(stored)
        assert self.progress == after, "a crash between two ticks changes nothing"
        moved = (before.state, before.shadow, before.step) != (after.state, after.shadow, after.step)
        assert decision.message and (decision.action != "stay" or not moved or after.state == "running")
        assert after.step - before.step in (0, 1)
        self.ended = after.state if after.state in TERMINAL else None

    @rule(canary=arm_counts(), champion=arm_counts(), minutes=st.sampled_from([1, 30, 120, 600]))
    def tick(self, canary: ArmCounts, champion: ArmCounts, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        before = self.progress
        decision = advance(before, RULES, canary, champion, self.now)
        if decision.action in ("promote_step", "finish") and not before.shadow:
            assert before.state == "running"
            assert before.step_started_at is not None and self.now - before.step_started_at >= timedelta(hours=1)
            assert before.step_canary.n + canary.n >= RULES.min_n
        self.take(decision)

    @rule(name=st.sampled_from(["start", "step", "hold", "resume", "abort", "roll_back"]))
    def operate(self, name: str) -> None:
        if self.progress.state == "pending" and name == "abort":
            name = "start"
        operation: dict[str, Callable[[], Decision]] = {
            "start": lambda: start(self.progress, RULES, self.now),
            "step": lambda: step(self.progress, RULES, "asked for", self.now),
            "hold": lambda: hold(self.progress, "asked for"),
            "resume": lambda: resume(self.progress, self.now),
            "abort": lambda: abort(self.progress, "asked for", self.now),
            "roll_back": lambda: roll_back(self.progress, "asked for", self.now),
        }
        allowed = ALLOWED[self.progress.state]
        if name in allowed:
            decision = operation[name]()
            assert self.ended is None
            self.take(decision)
            assert self.progress.state == allowed[name] or (name == "step" and self.progress.state == "promoted")
        else:
            with pytest.raises(BadInput, match=self.progress.state.replace("_", " ")):
                operation[name]()

    @invariant()
    def the_share_is_the_steps(self) -> None:
        p = self.progress
        expected = p.steps[p.step] if p.state in ("running", "held") and not p.shadow else 0
        assert p.percent == expected


UNDER_WAY = {"step": "running", "abort": "aborted", "roll_back": "rolled_back"}
ALLOWED: dict[str, dict[str, str]] = {
    "pending": {"start": "running", "abort": "aborted"},
    "running": {**UNDER_WAY, "hold": "held"},
    "held": {**UNDER_WAY, "resume": "running"},
    "promoted": {},
    "rolled_back": {},
    "aborted": {},
}

TestRolloutMachine = RolloutMachine.TestCase
TestRolloutMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_person_steps_through_to_the_end_without_evidence() -> None:
    progress = start(new_progress(RULES), RULES, BEGIN).progress
    places = [progress.place]
    while progress.active:
        decision = step(progress, RULES, "tested elsewhere", BEGIN)
        progress = decision.progress
        places.append(progress.place if progress.active else progress.state)
    assert places == ["shadow", "5%", "25%", "50%", "100%", "promoted"]
    assert "by hand: tested elsewhere" in progress.reason


def test_resuming_gives_a_held_rollout_its_time_again() -> None:
    progress = start(new_progress(RULES), RULES, BEGIN).progress
    held = advance(progress, RULES, ArmCounts(), ArmCounts(), BEGIN + timedelta(hours=9)).progress
    assert held.state == "held"
    resumed = resume(held, BEGIN + timedelta(hours=20)).progress
    still = advance(resumed, RULES, ArmCounts(), ArmCounts(), BEGIN + timedelta(hours=27))
    assert still.progress.state == "running"
    assert advance(resumed, RULES, ArmCounts(), ArmCounts(), BEGIN + timedelta(hours=29)).action == "hold"


def test_a_refusal_names_the_state_and_what_can_be_done() -> None:
    progress = start(new_progress(RULES), RULES, BEGIN).progress
    ended = roll_back(progress, "wrong tone", BEGIN).progress
    assert ended.reason == "rolled back at shadow by hand: wrong tone" and ended.ended_at == BEGIN
    with pytest.raises(BadInput, match=r"cannot resume, it is rolled back\n  mend: start a rollout of another adapter"):
        resume(ended, BEGIN)
    aborted = abort(new_progress(RULES), "not needed", BEGIN)
    assert aborted.message == "aborted before the start: not needed"
