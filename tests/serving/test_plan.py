"""Who answers: sessions stick, shares are what they say, nobody withdrawn is chosen, no tenant reaches another's."""

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_platform.serving.plan import Choice, Plan, choose, fallbacks, in_doubt, is_shadowed, position, without

ADAPTERS = st.sampled_from(["ad-a", "ad-b", "ad-c", "ad-d"])
SHARES = st.floats(0, 1)
SESSIONS = st.text(max_size=20)
ORDER: list[Literal["previous_champion", "base"]] = ["previous_champion", "base"]


PLACES = st.fixed_dictionaries(
    {
        "champion": st.none() | ADAPTERS,
        "previous_champion": st.none() | ADAPTERS,
        "canary": st.none() | ADAPTERS,
        "canary_share": SHARES,
        "salt": st.sampled_from(["", "ro-1", "ro-2"]),
        "shadow": st.none() | ADAPTERS,
        "shadow_share": SHARES,
        "tenants": st.dictionaries(st.sampled_from(["t1", "t2"]), ADAPTERS),
        "withdrawn": st.lists(ADAPTERS, max_size=2, unique=True),
        "killed": st.sampled_from([None, None, "wrong language"]),
    }
)


def fitting(places: dict[str, Any]) -> Plan:
    """A plan of places of which those of withdrawn adapters are empty."""
    withdrawn = places["withdrawn"]
    empty = {name: None for name in ("champion", "canary", "shadow") if places[name] in withdrawn}
    tenants = {tenant: adapter for tenant, adapter in places["tenants"].items() if adapter not in withdrawn}
    return Plan(**{**places, **empty, "tenants": tenants})


def plans() -> st.SearchStrategy[Plan]:
    return PLACES.map(fitting)


def line(plan: Plan, session: str, tenant: str = "") -> list[Choice]:
    """Everybody who may answer a session, in order."""
    first = choose(plan, "topics", session, tenant)
    return [first, *fallbacks(plan, first, ORDER)]


@given(plan=plans(), session=SESSIONS, more=SHARES)
def test_a_session_keeps_its_arm_while_the_share_grows(plan: Plan, session: str, more: float) -> None:
    grown = plan.model_copy(update={"canary_share": max(plan.canary_share, more)})
    if choose(plan, "topics", session).arm == "canary":
        assert choose(grown, "topics", session) == choose(plan, "topics", session)
    if choose(grown, "topics", session).arm == "champion":
        assert choose(plan, "topics", session) == choose(grown, "topics", session)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.5, 1.0])
def test_the_canary_answers_its_share_of_the_sessions(share: float) -> None:
    plan = Plan(champion="ad-a", canary="ad-b", canary_share=share, salt="ro-1")
    arms = [choose(plan, "topics", f"user-{number}").arm for number in range(20_000)]
    # Four standard deviations.
    assert arms.count("canary") / 20_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5)


def test_each_rollout_draws_other_sessions() -> None:
    first = {n for n in range(5000) if position("topics", "ro-1", str(n)) < 0.25}
    second = {n for n in range(5000) if position("topics", "ro-2", str(n)) < 0.25}
    assert len(first & second) / 5000 == pytest.approx(0.0625, abs=0.02)


@given(session=SESSIONS)
def test_a_position_is_in_the_unit_interval_and_the_same_in_every_process(session: str) -> None:
    assert 0 <= position("topics", "ro-1", session) < 1
    assert position("topics", "ro-1", "user-1") == 0.6922917055019465


@given(plan=plans(), session=SESSIONS, tenant=st.sampled_from(["", "t1", "t2", "t3"]))
@settings(max_examples=150)
def test_nobody_withdrawn_ever_answers_and_after_a_kill_only_the_base_model(
    plan: Plan, session: str, tenant: str
) -> None:
    for choice in line(plan, session, tenant):
        assert choice.adapter not in plan.withdrawn
        assert plan.allows(choice.adapter)
        if plan.killed is not None:
            assert choice == Choice("base", None)
    if plan.killed is not None:
        assert not is_shadowed(plan, "topics", session, tenant)


@given(plan=plans(), session=SESSIONS, tenant=st.sampled_from(["", "t1", "t2", "t3"]))
@settings(max_examples=150)
def test_an_adapter_of_one_tenant_answers_no_other(plan: Plan, session: str, tenant: str) -> None:
    shared = {plan.champion, plan.previous_champion, plan.canary}
    answering = {choice.adapter for choice in line(plan, session, tenant)}
    assert answering <= shared | {None, plan.tenants.get(tenant)}
    if plan.killed is None and tenant in plan.tenants:
        assert choose(plan, "topics", session, tenant) == Choice("tenant", plan.tenants[tenant])
        assert not is_shadowed(plan, "topics", session, tenant)


@given(plan=plans(), session=SESSIONS, tenant=st.sampled_from(["", "t1"]))
def test_whoever_may_be_asked_is_loaded(plan: Plan, session: str, tenant: str) -> None:
    asked = {choice.adapter for choice in line(plan, session, tenant)} - {None}
    assert asked <= plan.adapters
    if is_shadowed(plan, "topics", session, tenant):
        assert plan.shadow in plan.adapters


def test_a_canary_falls_back_on_the_champion_then_in_the_tasks_order() -> None:
    plan = Plan(champion="ad-a", previous_champion="ad-b", canary="ad-c", canary_share=1.0, tenants={"t1": "ad-d"})
    canary, tenant = choose(plan, "topics", "s"), choose(plan, "topics", "s", "t1")
    champion = Choice("champion", "ad-a")
    last = [Choice("fallback", "ad-b"), Choice("fallback", None)]
    assert fallbacks(plan, canary, ORDER) == [Choice("fallback", "ad-a"), *last]
    assert fallbacks(plan, tenant, ORDER) == [Choice("fallback", "ad-a"), *last]
    assert fallbacks(plan, champion, ORDER) == last
    assert fallbacks(plan, champion, ["base", "previous_champion"]) == last[::-1]
    assert fallbacks(plan, champion, []) == []
    assert fallbacks(plan, Choice("base", None), ORDER) == [Choice("fallback", "ad-b")]


@given(plan=plans(), adapter=ADAPTERS, session=SESSIONS, tenant=st.sampled_from(["", "t1"]))
@settings(max_examples=150)
def test_an_adapter_taken_back_holds_no_place_whatever_places_it_had(
    plan: Plan, adapter: str, session: str, tenant: str
) -> None:
    after = without(plan, adapter)
    assert Plan.model_validate(after.model_dump()) == after
    assert adapter not in after.adapters and not after.allows(adapter)
    assert all(choice.adapter != adapter for choice in line(after, session, tenant))
    others = {"champion", "canary", "shadow"}
    kept = {name for name in others if getattr(plan, name) not in (adapter, None)}
    assert all(getattr(after, name) == getattr(plan, name) for name in kept)


def test_the_champion_before_takes_the_place_of_one_taken_back() -> None:
    after = without(Plan(champion="ad-b", previous_champion="ad-a"), "ad-b")
    assert (after.champion, after.previous_champion, after.withdrawn) == ("ad-a", None, ["ad-b"])
    assert without(Plan(champion="ad-b", previous_champion="ad-a", withdrawn=["ad-a"]), "ad-b").champion is None


@given(plan=plans(), session=SESSIONS, tenant=st.sampled_from(["", "t1"]))
def test_in_doubt_who_is_on_trial_counts_as_withdrawn_and_all_others_stay(
    plan: Plan, session: str, tenant: str
) -> None:
    doubted = in_doubt(plan)
    assert choose(doubted, "topics", session, tenant).arm != "canary"
    assert not is_shadowed(doubted, "topics", session, tenant)
    kept = {plan.champion, *plan.tenants.values()}
    for adapter in {plan.canary, plan.shadow} - kept - {None}:
        assert not doubted.allows(adapter)
    assert (doubted.champion, doubted.tenants, doubted.killed) == (plan.champion, plan.tenants, plan.killed)


@pytest.mark.parametrize(
    "changes", [{"champion": "ad-a"}, {"canary": "ad-a"}, {"shadow": "ad-a"}, {"tenants": {"t1": "ad-a"}}]
)
def test_a_plan_in_which_somebody_withdrawn_serves_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="ad-a is withdrawn and cannot serve"):
        Plan(withdrawn=["ad-a"], **changes)
