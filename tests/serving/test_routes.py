"""Routes as they are stored: every change kept with its audit entry, none lost among writers, the history whole."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from finetune_platform import audit
from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.serving import routes
from finetune_platform.serving.plan import Plan
from finetune_platform.serving.routes import Route, Span, edited

_fresh = itertools.count()


def change(database: Database, task: str = "topics", reason: str = "because", **changes: Any) -> Route:
    return routes.change(
        database, task, lambda plan: edited(plan, **changes), actor="cli:ann", action="route.edit", reason=reason
    )


def plan_of(database: Database, task: str = "topics") -> Plan:
    with database.reading() as session:
        return routes.current(session, task).plan


def test_a_route_is_what_it_was_changed_to_last_and_each_change_is_in_the_audit_log(database: Database) -> None:
    assert plan_of(database) == Plan()
    first = change(database, champion="ad-1", reason="the first")
    second = change(database, canary="ad-2", canary_share=0.05, reason="a trial")
    change(database, "other", champion="ad-9")
    assert plan_of(database) == second.plan == Plan(champion="ad-1", canary="ad-2", canary_share=0.05)
    with database.reading() as session:
        newest = routes.versions(session)
    assert newest["topics"] == second.version > first.version and newest.keys() == {"topics", "other"}
    entries = list(audit.entries(database, "topics"))
    assert [(e.actor, e.action, e.reason, e.details["version"]) for e in entries] == [
        ("cli:ann", "route.edit", "the first", first.version),
        ("cli:ann", "route.edit", "a trial", second.version),
    ]
    assert entries[1].details["before"] == entries[0].details["after"] == first.plan.model_dump(mode="json")
    assert audit.verify(database).broken == []


def test_an_edit_that_changes_nothing_leaves_no_trace(database: Database) -> None:
    before = change(database, champion="ad-1")
    assert change(database, champion="ad-1") == before
    assert len(list(audit.entries(database))) == 1
    assert len(routes.history(database, "topics")) == 1


def test_a_change_and_its_audit_entry_are_kept_or_lost_together(database: Database) -> None:
    with pytest.raises(BadInput, match="characters that a database cannot hold"):
        change(database, champion="ad-1", reason="a\0b")
    assert plan_of(database) == Plan()
    with pytest.raises(RuntimeError), database.session() as session:
        routes.change_in(
            session, "topics", lambda plan: edited(plan, champion="ad-1"), actor="a", action="b.c", reason="d"
        )
        raise RuntimeError("killed before the end")
    assert plan_of(database) == Plan() and list(audit.entries(database)) == []


def test_of_eight_writers_at_once_no_change_is_lost(database: Database) -> None:
    database.upgrade()

    def write(number: int) -> None:
        for step in range(5):
            routes.change(
                database,
                "topics",
                lambda plan: edited(plan, tenants={**plan.tenants, f"t{number}-{step}": f"ad-{number}"}),  # noqa: B023
                actor=f"cli:{number}",
                action="route.tenant",
                reason="a tenant more",
            )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(plan_of(database).tenants) == 40
    assert len(list(audit.entries(database, "topics"))) == 40
    assert audit.verify(database).broken == []


def test_a_kill_stands_beside_the_plan_until_it_is_revived(database: Database) -> None:
    before = change(database, champion="ad-1", canary="ad-2", canary_share=0.25).plan
    killed = routes.kill(database, "topics", actor="cli:ann", reason="wrong language").plan
    assert killed == before.model_copy(update={"killed": "wrong language"})
    assert routes.kill(database, "topics", actor="cli:bob", reason="again").plan.killed == "wrong language"
    assert routes.revive(database, "topics", actor="cli:ann", reason="mended").plan == before
    assert [e.action for e in audit.entries(database)] == ["route.edit", "route.kill", "route.revive"]
    with pytest.raises(BadInput, match="needs a reason"):
        routes.kill(database, "topics", actor="cli:ann", reason=" ")


def test_what_no_plan_can_say_is_refused_with_the_adapters_name(database: Database) -> None:
    change(database, withdrawn=["ad-1"])
    with pytest.raises(BadInput, match="ad-1 is withdrawn and cannot serve"):
        change(database, champion="ad-1")
    with pytest.raises(BadInput, match="less than or equal to 1"):
        change(database, canary="ad-2", canary_share=5.0)
    assert plan_of(database) == Plan(withdrawn=["ad-1"])


def test_a_plan_of_a_newer_version_is_told_apart_from_a_bug(database: Database) -> None:
    version = change(database, champion="ad-1").version
    with database.session() as session:
        session.execute(text("UPDATE route_changes SET plan = :plan"), {"plan": '{"champion": "ad-1", "mirror": "x"}'})
    with pytest.raises(BadInput, match=rf"topics: its route \(version {version}\) cannot be read by this version"):
        plan_of(database)


def test_the_history_tells_who_served_what_share_when_and_why(database: Database) -> None:
    change(database, champion="ad-1", reason="first")
    change(database, canary="ad-2", canary_share=0.05, reason="trial")
    change(database, shadow="ad-3", shadow_share=1.0, tenants={"acme": "ad-4"}, reason="more")
    routes.kill(database, "topics", actor="cli:bob", reason="wrong")
    spans = routes.history(database, "topics")
    told = [(s.adapter_id, s.arm, s.share, s.actor, s.reason, s.until is None) for s in spans]
    assert sorted(told) == [
        ("ad-1", "champion", 0.95, "cli:ann", "trial", False),
        ("ad-1", "champion", 1.0, "cli:ann", "first", False),
        ("ad-2", "canary", 0.05, "cli:ann", "trial", False),
        ("ad-3", "shadow", 1.0, "cli:ann", "more", False),
        ("ad-4", "tenant acme", 1.0, "cli:ann", "more", False),
        ("base", "base", 1.0, "cli:bob", "wrong", True),
    ]
    by_share = {(s.adapter_id, s.share): s for s in spans}
    assert by_share["ad-1", 1.0].until == by_share["ad-1", 0.95].since == by_share["ad-2", 0.05].since
    assert routes.history(database, "other") == []


EDITS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "champion": st.sampled_from(["ad-1", "ad-2", None]),
            "canary": st.sampled_from(["ad-3", "ad-4", None]),
            "canary_share": st.sampled_from([0.0, 0.05, 0.25, 0.5, 1.0]),
            "killed": st.sampled_from(["why", None]),
            "shadow": st.sampled_from(["ad-5", None]),
            "shadow_share": st.sampled_from([0.0, 1.0]),
        },
    ),
    min_size=1,
    max_size=8,
)


@given(edits=EDITS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_at_any_moment_the_shares_of_all_that_is_shown_add_up_to_one(
    database: Database, edits: list[dict[str, Any]]
) -> None:
    task = f"task_{next(_fresh)}"
    for edit in edits:
        change(database, task, **edit)
    spans = routes.history(database, task)
    turns = sorted({moment for span in spans for moment in (span.since, span.until) if moment is not None})
    for moment in (turn + timedelta(microseconds=after) for turn in turns for after in (0, 1)):
        shown = [s for s in spans if _runs(s, moment) and s.arm in ("champion", "canary", "base")]
        assert sum(s.share for s in shown) == pytest.approx(1.0)
        assert len({(s.adapter_id, s.arm) for s in shown}) == len(shown)
    standing = {(s.adapter_id, s.arm): s.share for s in spans if s.until is None}
    assert standing == (routes.shares_of(plan_of(database, task)) if spans else {})


def _runs(span: Span, moment: Any) -> bool:
    return span.since <= moment and (span.until is None or moment < span.until)


def test_since_when_the_champion_serves_is_not_moved_by_other_changes(database: Database) -> None:
    assert routes.champion_since(database, "topics") == ("base", datetime.fromtimestamp(0, UTC))
    change(database, champion="ad-1")
    change(database, canary="ad-2", canary_share=0.05)
    change(database, canary_share=0.5)
    name, since = routes.champion_since(database, "topics")
    assert (name, since) == ("ad-1", routes.history(database, "topics")[0].since)
    change(database, champion="ad-2", canary=None, canary_share=0.0)
    assert routes.champion_since(database, "topics") == ("ad-2", routes.history(database, "topics")[-1].since)
