"""Rollouts on evidence: what moves a canary on, what takes it back, what waits."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from finetune_platform.serving.rollout_evidence import ArmCounts
from finetune_platform.serving.rollout_operations import hold, start
from finetune_platform.serving.rollout_progress import Progress, comparison, guardrail_views, new_progress
from finetune_platform.serving.rollout_rules import Decision, advance
from finetune_platform.task_serving import Rollout

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
RULES = Rollout(hold_hours=4, timeout_hours=24)
NOTHING = ArmCounts()


def counts(
    n: int, *, errors: int = 0, slow: int = 0, invalid: int = 0, refused: int = 0, bad_words: int = 0
) -> ArmCounts:
    answered = n - errors
    return ArmCounts(
        n=n,
        good=answered - invalid - refused,
        errors=errors,
        timed_n=answered,
        slow=slow,
        format_n=answered,
        invalid_format=invalid,
        refusals=refused,
        feedback_n=n // 10,
        feedback_negative=bad_words,
    )


GOOD = counts(600, errors=6, slow=60, invalid=12, refused=6, bad_words=12)


def started(rollout: Rollout = RULES) -> Progress:
    return start(new_progress(rollout, slow_limit_ms=1000.0), rollout, BEGIN).progress


def ticks(
    progress: Progress,
    hours: int,
    canary: ArmCounts = GOOD,
    champion: ArmCounts = GOOD,
    rollout: Rollout = RULES,
    since: datetime = BEGIN,
) -> list[Decision]:
    """A tick an hour, until the step changes or the hours are over."""
    decisions = []
    for hour in range(1, hours + 1):
        decisions.append(advance(progress, rollout, canary, champion, since + hour * HOUR))
        progress = decisions[-1].progress
        if decisions[-1].action != "stay":
            break
    return decisions


def test_a_good_canary_earns_every_step_and_becomes_champion() -> None:
    progress, now, seen = started(), BEGIN, []
    for _ in RULES.steps:
        decision = ticks(progress, 30, since=now)[-1]
        now += RULES.hold_hours * HOUR
        assert progress.percent in RULES.steps
        seen.append((progress.percent, decision.action))
        progress = decision.progress
    assert seen == [(5, "promote_step"), (25, "promote_step"), (50, "promote_step"), (100, "finish")]
    assert progress.state == "promoted" and progress.ended_at == now
    assert "2,400 requests in 4.0 h" in progress.reason and "+0.0 points" in progress.reason


def test_every_step_has_its_time_of_its_own() -> None:
    slow = Rollout(hold_hours=20, timeout_hours=24)
    first = ticks(started(slow), 30, rollout=slow)[-1]
    second = ticks(first.progress, 30, rollout=slow, since=BEGIN + 20 * HOUR)[-1]
    assert (first.action, second.action) == ("promote_step", "promote_step")
    assert second.progress.percent == 50


def test_no_step_is_taken_before_time_requests_and_evidence_are_there() -> None:
    early = ticks(started(), 3)[-1]
    assert early.action == "stay" and "3.0 h of 4.0 h" in early.message
    few = ticks(started(), 6, canary=counts(20))[-1]
    assert few.action == "stay" and "120 of 200 canary requests" in few.message
    unsure = ticks(started(), 6, canary=counts(35, invalid=2), champion=counts(600, invalid=30))[-1]
    assert unsure.action == "stay" and "at worst" in unsure.message and unsure.progress.percent == 5


@pytest.mark.parametrize(
    ("guardrail", "canary"),
    [
        ("errors", counts(200, errors=12)),
        ("latency", counts(200, slow=60)),
        ("valid_format", counts(200, invalid=24)),
        ("refusals", counts(200, refused=12)),
        ("feedback", counts(200, bad_words=11)),
    ],
)
def test_each_guardrail_takes_a_worse_canary_back_and_says_why(guardrail: str, canary: ArmCounts) -> None:
    decision = ticks(started(), 24, canary)[-1]
    assert decision.action == "roll_back" and decision.progress.state == "rolled_back"
    assert f"at 5%: {guardrail}:" in decision.message and "(limit 100)" in decision.message
    assert advance(decision.progress, RULES, GOOD, GOOD, BEGIN + 99 * HOUR).action == "stay"


def test_only_configured_guardrails_count_and_fewer_of_them_have_a_lower_limit() -> None:
    bad_format = counts(200, invalid=24)
    errors_only = RULES.model_copy(update={"guardrails": ["errors"]})
    decision = ticks(started(errors_only), 23, bad_format, rollout=errors_only)[-1]
    assert decision.action == "stay" and "at worst" in decision.message
    views = guardrail_views(decision.progress, errors_only)
    assert [(v.guardrail, v.limit) for v in views] == [("errors", 20.0)]


def test_what_a_task_does_not_measure_is_no_evidence_and_stands_in_no_way() -> None:
    bare = ArmCounts(n=600, good=594, errors=6)
    decision = ticks(started(), 6, bare, bare)[-1]
    assert decision.action == "promote_step"
    e_values = {v.guardrail: v.e_value for v in guardrail_views(decision.progress, RULES)}
    assert e_values["errors"] < 1
    assert [e_values[name] for name in ("latency", "valid_format", "refusals", "feedback")] == pytest.approx([1] * 4)


def test_few_words_of_users_keep_a_step_waiting_until_they_speak_for_the_canary() -> None:
    canary = counts(100, bad_words=2)
    waiting = ticks(started(), 5, canary)[-1]
    assert waiting.action == "stay" and "not yet clear: feedback: 20.0% of 50" in waiting.message
    assert ticks(started(), 23, canary)[-1].action == "promote_step"


def test_a_canary_without_an_answer_of_its_own_is_held_after_the_time_out_and_never_promoted() -> None:
    decision = ticks(started(), 30, canary=NOTHING)[-1]
    assert decision.action == "hold" and decision.progress.state == "held" and decision.progress.percent == 5
    assert "no decision within 24.0 h" in decision.message and "0 of 200 canary requests" in decision.message


def test_a_held_rollout_keeps_its_share_and_can_still_be_taken_back() -> None:
    held = hold(started(), "holidays").progress
    quiet = ticks(held, 40)
    assert {(d.action, d.progress.state, d.progress.percent) for d in quiet} == {("stay", "held", 5)}
    assert "holidays" in quiet[-1].message
    assert ticks(quiet[-1].progress, 5, counts(200, invalid=60))[-1].action == "roll_back"


def test_in_the_shadow_phase_nobody_is_shown_anything_and_guardrails_watch() -> None:
    rules = RULES.model_copy(update={"shadow_hours": 3.0})
    shadow = started(rules)
    assert shadow.shadow and shadow.percent == 0
    after = ticks(shadow, 9, rollout=rules)[-1]
    assert after.action == "promote_step" and "from shadow to 5%" in after.message
    assert (after.progress.shadow, after.progress.percent, after.progress.step_canary.n) == (False, 5, 0)
    assert ticks(shadow, 9, counts(600, errors=60), rollout=rules)[-1].message.startswith("rolled back at shadow")
    unanswered = ticks(shadow, 40, NOTHING, rollout=rules)[-1]
    assert unanswered.action == "hold" and unanswered.progress.shadow


def at_full_share(progress: Progress) -> tuple[Progress, datetime]:
    now = BEGIN
    for _ in RULES.steps[:-1]:
        progress = ticks(progress, 30, since=now)[-1].progress
        now += RULES.hold_hours * HOUR
    assert progress.percent == 100
    return progress, now


def test_at_full_share_the_champion_of_before_is_the_measure() -> None:
    progress, now = at_full_share(started())
    frozen = progress.champion
    decision = advance(progress, RULES, GOOD, counts(50, errors=50), now + HOUR)
    assert decision.progress.champion == frozen, "late counts of the champion are left out"
    assert comparison(decision.progress, RULES).observed == pytest.approx(0.0)
    bad_hour = counts(600, errors=18, slow=78, invalid=30, refused=12, bad_words=15)
    assert ticks(progress, 3, bad_hour, since=now)[-1].action == "stay", "a bad hour is no reason"
    gross = ticks(progress, 3, counts(600, slow=300), since=now)[-1]
    assert gross.action == "roll_back" and gross.message.startswith("rolled back at 100%: latency")
    worse = ticks(progress, 30, counts(600, invalid=60), since=now)[-1]
    assert worse.action == "hold" and "at worst" in worse.message, "6% lost is no gross failure, but no champion either"


def test_an_hour_as_bad_as_the_champions_worst_is_no_failure_at_full_share() -> None:
    bad_hour = counts(600, slow=300)
    progress, now = at_full_share(advance(started(), RULES, bad_hour, bad_hour, BEGIN).progress)
    assert ticks(progress, 3, bad_hour, since=now)[-1].action == "stay"


def test_straight_to_full_share_there_is_nothing_to_compare_with_and_it_is_held() -> None:
    rules = RULES.model_copy(update={"steps": [100]})
    decision = ticks(started(rules), 30, rollout=rules)[-1]
    assert decision.action == "hold" and "no champion to compare with" in decision.message


def test_without_automatic_a_ready_step_waits_for_a_person_but_guardrails_do_not() -> None:
    rules = RULES.model_copy(update={"automatic": False})
    ready = ticks(started(rules), 40, rollout=rules)
    assert {d.action for d in ready} == {"stay"} and "ready for the next step" in ready[-1].message
    assert ticks(started(rules), 40, counts(200, errors=40), rollout=rules)[-1].action == "roll_back"


def test_an_edited_task_file_moves_no_running_share() -> None:
    edited = RULES.model_copy(update={"steps": [90, 100]})
    decision = ticks(started(), 3, rollout=edited)[-1]
    assert decision.progress.percent == 5


def test_counts_that_cannot_be_are_refused() -> None:
    for wrong in ({"n": 1, "good": 2}, {"n": 3, "errors": 2, "good": 2}, {"feedback_negative": 1}, {"n": -1}):
        with pytest.raises(ValidationError):
            ArmCounts(**wrong)
