"""Routes as they are stored: one append-only row a change, each with an audit entry in the same transaction.

What a route may say is `plan.py`; how a gateway hears of a change within a fraction of a second is `watch.py`.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from finetune_platform import audit
from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.errors import BadInput
from finetune_platform.serving.plan import BASE, Plan
from finetune_platform.serving.tables import RouteChange

Edit = Callable[[Plan], Plan]


class Route(NamedTuple):
    """A task's plan since a change; `version` 0 is a task that nobody has routed yet."""

    version: int
    plan: Plan


def current(session: Session, task: str) -> Route:
    """What serves a task now.

    Raises:
        BadInput: The stored plan cannot be read: a newer version wrote it.
    """
    query = select(RouteChange).where(RouteChange.task == task).order_by(RouteChange.id.desc()).limit(1)
    row = session.scalars(query).first()
    return Route(row.id, _plan_of(row)) if row else Route(0, Plan())


_VERSIONS = select(RouteChange.task, func.max(RouteChange.id)).group_by(RouteChange.task)


def versions(session: Session) -> dict[str, int]:
    """The newest version of every routed task: all that a poll has to read."""
    return {row.task: row[1] for row in session.execute(_VERSIONS)}


def change(database: Database, task: str, edit: Edit, *, actor: str, action: str, reason: str) -> Route:
    """Changes a task's route in a transaction of its own; an edit that changes nothing leaves no trace."""
    with database.session() as session:
        return change_in(session, task, edit, actor=actor, action=action, reason=reason)


def change_in(session: Session, task: str, edit: Edit, *, actor: str, action: str, reason: str) -> Route:
    """Changes a task's route in the caller's transaction; of several writers each sees what the one before wrote.

    Args:
        edit: From the plan in force to the new one.
        actor: Who, as in `audit.record`.
        action: What, as in `audit.record`: `route.canary`, `rollout.promote`.
        reason: Why, in words.

    Raises:
        BadInput: The words cannot be stored, or the edit is refused.
    """
    audit.check(actor=actor, action=action, subject=task, reason=reason)
    serialize(session.connection())
    before = current(session, task)
    after = edit(before.plan)
    if after == before.plan:
        return before
    row = RouteChange(task=task, plan=after.model_dump(mode="json"), actor=actor, reason=reason)
    session.add(row)
    session.flush()
    details = {"version": row.id, "before": before.plan.model_dump(mode="json"), "after": row.plan}
    audit.record(session, actor=actor, action=action, subject=task, reason=reason, details=details)
    return Route(row.id, after)


def kill(database: Database, task: str, *, actor: str, reason: str) -> Route:
    """Sends all traffic of a task to the fallback.

    Raises:
        BadInput: No reason is given.
    """
    check_kill(task, reason)
    return change(
        database,
        task,
        lambda plan: plan.model_copy(update={"killed": plan.killed or reason}),
        actor=actor,
        action="route.kill",
        reason=reason,
    )


def check_kill(task: str, reason: str) -> None:
    """Refuses a kill without a reason.

    Raises:
        BadInput: There is none.
    """
    if not reason.strip():
        raise BadInput(f"{task}: a kill needs a reason", 'say why: --reason "answers in the wrong language"')


def revive(database: Database, task: str, *, actor: str, reason: str) -> Route:
    """Ends a kill: the plan that stands beside it is in force again."""
    return change(
        database,
        task,
        lambda plan: plan.model_copy(update={"killed": None}),
        actor=actor,
        action="route.revive",
        reason=reason,
    )


def edited(plan: Plan, **changes: object) -> Plan:
    """A copy with some fields replaced, checked like a new plan.

    Raises:
        BadInput: It is no plan: an adapter would serve that is withdrawn, or a share is not in [0, 1].
    """
    try:
        return Plan.model_validate({**plan.model_dump(), **changes})
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BadInput(f"route: {told}", "start a rollout to let an adapter in again, or name another") from error


def _plan_of(row: RouteChange) -> Plan:
    try:
        return Plan.model_validate(row.plan)
    except ValidationError as error:
        raise BadInput(
            f"{row.task}: its route (version {row.id}) cannot be read by this version of finetune-platform",
            "upgrade finetune-platform to the version that other processes use",
        ) from error


def champion_since(database: Database, task: str) -> tuple[str, datetime]:
    """Who answers what no other part of the plan takes (an adapter, or "base"), and since when: the first day, where
    nobody ever routed the task."""
    with database.reading() as session:
        query = select(RouteChange).where(RouteChange.task == task).order_by(RouteChange.id)
        rows = [(row.created_at, _plan_of(row).champion or BASE) for row in session.scalars(query)]
    champion, since = BASE, datetime.fromtimestamp(0, UTC)
    for moment, name in rows:
        if name != champion:
            champion, since = name, moment
    return champion, since


class Span(NamedTuple):
    """From `since` to `until` (None: still) `adapter_id` answered `share` of the traffic as `arm`."""

    adapter_id: str
    arm: str
    share: float
    since: datetime
    until: datetime | None
    actor: str
    reason: str


def history(database: Database, task: str) -> list[Span]:
    """Which adapter served what share when, since the first day, oldest first."""
    with database.reading() as session:
        query = select(RouteChange).where(RouteChange.task == task).order_by(RouteChange.id)
        rows = list(session.scalars(query))
    spans: list[Span] = []
    running: dict[tuple[str, str], Span] = {}
    for row in rows:
        shares = shares_of(_plan_of(row))
        for key in [k for k, span in running.items() if shares.get(k) != span.share]:
            spans.append(running.pop(key)._replace(until=row.created_at))
        for (adapter, arm), share in shares.items():
            if (adapter, arm) not in running:
                running[adapter, arm] = Span(adapter, arm, share, row.created_at, None, row.actor, row.reason)
    return sorted([*spans, *running.values()], key=lambda span: (span.since, span.arm))


def shares_of(plan: Plan) -> dict[tuple[str, str], float]:
    """What each adapter answers of the traffic that no tenant's own adapter takes, by (adapter or "base", arm)."""
    if plan.killed is not None:
        return {("base", "base"): 1.0}
    shares: dict[tuple[str, str], float] = {}
    canary = plan.canary_share if plan.canary else 0.0
    if plan.canary and canary:
        shares[plan.canary, "canary"] = canary
    if canary < 1:
        shares[(plan.champion, "champion") if plan.champion else ("base", "base")] = 1 - canary
    if plan.shadow and plan.shadow_share:
        shares[plan.shadow, "shadow"] = plan.shadow_share
    for tenant, adapter in plan.tenants.items():
        shares[adapter, f"tenant {tenant}"] = 1.0
    return shares
