"""Routes changed by hand: A/B tests, shadows and tenants beside rollouts, each with its audit entry."""

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_platform import audit
from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.plan import Plan, choose
from finetune_platform.serving.route_operations import clear, give_tenant, remove_tenant, start_ab, start_shadow
from finetune_platform.serving.routes import edited
from finetune_platform.task import Task

BY: dict[str, Any] = {"actor": "cli:ann", "reason": "to see which is better"}


@pytest.fixture
def served(database: Database) -> Database:
    """A database in which ad-1 is champion of `topics` and ad-9 was rolled back."""
    route(database, champion="ad-1", withdrawn=["ad-9"])
    return database


def route(database: Database, **changes: Any) -> None:
    routes.change(database, "topics", lambda plan: edited(plan, **changes), actor="t", action="route.edit", reason="t")


def plan_of(database: Database) -> Plan:
    with database.reading() as session:
        return routes.current(session, "topics").plan


def test_an_ab_test_splits_the_sessions_and_says_who_wanted_it(served: Database) -> None:
    plan = start_ab(served, "topics", "ad-2", 50, **BY).plan
    assert plan == plan_of(served) and (plan.champion, plan.canary, plan.canary_share) == ("ad-1", "ad-2", 0.5)
    sides = [choose(plan, "topics", f"user-{number}").adapter for number in range(2000)]
    assert sides.count("ad-1") + sides.count("ad-2") == 2000 and 900 < sides.count("ad-2") < 1100
    last = list(audit.entries(served, "topics"))[-1]
    assert (last.actor, last.action, last.reason) == ("cli:ann", "route.ab", "to see which is better")
    with served.reading() as session:
        assert rollouts.active(session, "topics") is None, "nothing moves by itself"


def test_another_share_of_the_same_test_moves_only_the_sessions_that_it_must(served: Database) -> None:
    before = start_ab(served, "topics", "ad-2", 30, **BY).plan
    after = start_ab(served, "topics", "ad-2", 60, **BY).plan
    sessions = [f"user-{number}" for number in range(500)]
    on_b = {s for s in sessions if choose(before, "topics", s).adapter == "ad-2"}
    assert on_b < {s for s in sessions if choose(after, "topics", s).adapter == "ad-2"}
    another = start_ab(served, "topics", "ad-3", 30, **BY).plan
    assert on_b != {s for s in sessions if choose(another, "topics", s).adapter == "ad-3"}, "each test draws anew"


def test_a_shadow_stands_beside_an_ab_test_and_one_word_ends_both(served: Database) -> None:
    start_ab(served, "topics", "ad-2", 50, **BY)
    plan = start_shadow(served, "topics", "ad-3", 10, **BY).plan
    assert (plan.canary, plan.shadow, plan.shadow_share) == ("ad-2", "ad-3", 0.1)
    plan = clear(served, "topics", **BY).plan
    assert plan.adapters == {"ad-1"} and plan.canary_share == plan.shadow_share == 0
    with pytest.raises(BadInput, match="neither an A/B test nor a shadow"):
        clear(served, "topics", **BY)


def test_while_a_rollout_is_under_way_its_place_is_its_own(served: Database, topics: Task) -> None:
    rollout = rollouts.start(served, topics, "ad-2", actor="t", reason="t")
    before = plan_of(served)
    for change in (
        lambda: start_ab(served, "topics", "ad-3", 50, **BY),
        lambda: start_shadow(served, "topics", "ad-3", 50, **BY),
        lambda: clear(served, "topics", **BY),
    ):
        with pytest.raises(BadInput, match=f"{rollout.rollout_id} of ad-2 is running") as refused:
            change()
        assert "finetune rollout abort topics" in refused.value.mend
    assert plan_of(served) == before
    assert give_tenant(served, "topics", "acme", "ad-3", **BY).plan.canary == "ad-2"
    rollouts.by_hand(served, topics, "abort", actor="t", reason="t")
    assert start_ab(served, "topics", "ad-3", 50, **BY).plan.canary == "ad-3"


def test_a_rollout_that_starts_takes_the_place_of_an_ab_test(served: Database, topics: Task) -> None:
    start_ab(served, "topics", "ad-2", 50, **BY)
    rollouts.ensure_started(served, topics, "ad-3", actor="t", reason="t", now=datetime.now(UTC))
    plan = plan_of(served)
    assert (plan.canary, plan.canary_share) == ("ad-3", 0.05)


def test_a_tenants_adapter_answers_that_tenant_alone(served: Database) -> None:
    plan = give_tenant(served, "topics", "acme", "ad-2", **BY).plan
    assert choose(plan, "topics", "s", "acme") == ("tenant", "ad-2")
    assert {choose(plan, "topics", f"s{n}", who).adapter for n in range(50) for who in ("", "other")} == {"ad-1"}
    with pytest.raises(BadInput, match="other: has no adapter of its own") as refused:
        remove_tenant(served, "topics", "other", **BY)
    assert "acme" in refused.value.mend
    assert remove_tenant(served, "topics", "acme", **BY).plan.tenants == {}
    assert [e.action for e in audit.entries(served, "topics")][-2:] == ["route.tenant", "route.tenant"]


@pytest.mark.parametrize("percent", [0, 100, -5, 250, float("nan")])
def test_a_share_that_leaves_a_side_nothing_is_refused(served: Database, percent: float) -> None:
    with pytest.raises(BadInput, match="--share"):
        start_ab(served, "topics", "ad-2", percent, **BY)


def test_who_may_not_answer_gets_no_place(served: Database) -> None:
    for change in (start_ab, start_shadow):
        with pytest.raises(BadInput, match="ad-9 is withdrawn"):
            change(served, "topics", "ad-9", 50, **BY)
        with pytest.raises(BadInput, match="ad-1: is the champion of topics"):
            change(served, "topics", "ad-1", 50, **BY)
    with pytest.raises(BadInput, match="ad-9 is withdrawn"):
        give_tenant(served, "topics", "acme", "ad-9", **BY)
    for tenant in ("", "a/b", "x" * 65):
        with pytest.raises(BadInput, match="tenant:"):
            give_tenant(served, "topics", tenant, "ad-2", **BY)
    assert plan_of(served) == Plan(champion="ad-1", withdrawn=["ad-9"])
