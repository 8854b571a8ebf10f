"""Rollouts as they are stored and carried out: counts in, decision, route, promotion, audit and
announcement in one transaction.

The rules are pure and stand in `rollout_rules.py` and `rollout_operations.py`. A process killed anywhere leaves the
state before or after a whole tick; two that tick at the same time do it one after the other, and the second finds
nothing left to do.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Literal, NamedTuple

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from finetune_platform import audit
from finetune_platform.database import Database, Promotion
from finetune_platform.database_engine import serialize
from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id
from finetune_platform.manifests import Record
from finetune_platform.serving import rollout_operations as operations
from finetune_platform.serving import routes
from finetune_platform.serving.arm_traffic import arm_counts, champion_arms, slow_limit_before
from finetune_platform.serving.plan import BASE, Plan, without
from finetune_platform.serving.rollout_evidence import ArmCounts
from finetune_platform.serving.rollout_news import announce_decision, announce_demotion
from finetune_platform.serving.rollout_progress import TERMINAL, Progress, new_progress
from finetune_platform.serving.rollout_rules import Decision, advance
from finetune_platform.serving.routes import edited
from finetune_platform.serving.tables import RolloutRow
from finetune_platform.serving.traffic import BUCKET_S, Told, bucket_of, last_closed, told, total
from finetune_platform.task import Task
from finetune_platform.task_serving import Rollout

GRACE = timedelta(seconds=3)
"""How far the clocks of gateways may be behind: a span of traffic is counted once it is over on all of them."""

Operation = Literal["step", "hold", "resume", "abort", "rollback"]


class Memory(Record):
    """What `RolloutRow.progress` holds: the rules' memory, and up to where traffic has been counted."""

    progress: Progress
    counted_until: datetime


class Tick(NamedTuple):
    """What became of a rollout: `changed` says whether its state or its share did."""

    rollout_id: str
    adapter_id: str
    decision: Decision
    changed: bool


def latest(session: Session, task: str) -> RolloutRow | None:
    """The newest rollout of a task."""
    query = select(RolloutRow).where(RolloutRow.task == task).order_by(RolloutRow.created_at.desc()).limit(1)
    return session.scalars(query).first()


def active(session: Session, task: str) -> RolloutRow | None:
    """The rollout of a task that is under way."""
    query = select(RolloutRow).where(RolloutRow.task == task, RolloutRow.state.not_in(TERMINAL))
    return session.scalars(query.order_by(RolloutRow.created_at.desc()).limit(1)).first()


def memory_of(row: RolloutRow) -> Memory:
    """A stored rollout's memory.

    Raises:
        BadInput: A newer version wrote it.
    """
    try:
        return Memory.model_validate(row.progress)
    except ValidationError as error:
        raise BadInput(
            f"{row.rollout_id}: its state cannot be read by this version of finetune-platform",
            "upgrade finetune-platform to the version that other processes use",
        ) from error


def ensure_started(
    database: Database, task: Task, adapter_id: str, *, actor: str, reason: str, now: datetime | None = None
) -> Tick:
    """Starts a rollout of an adapter, unless its newest one is under way or has decided about it.

    One that is under way for another adapter is aborted: the newer adapter is the better bet, and two canaries would
    share the evidence.

    Args:
        adapter_id: A registered adapter of the task.
        actor: Who, as in `audit.record`.
        reason: Why.

    Raises:
        BadInput: It is champion without a rollout that made it so.
    """
    now = now or datetime.now(UTC)
    with database.session() as session:
        serialize(session.connection())
        mine = _newest_of(session, task.name, adapter_id)
        if mine is not None and mine.state != "aborted":
            progress = memory_of(mine).progress
            decision = Decision(action="stay", progress=progress, message=mine.message)
            return Tick(mine.rollout_id, adapter_id, decision, False)
        return _start(session, task, adapter_id, actor, reason, now)


def start(database: Database, task: Task, adapter_id: str, *, actor: str, reason: str) -> Tick:
    """Starts a rollout of an adapter, whatever became of earlier ones: a rolled-back adapter is let in again.

    Raises:
        BadInput: It is champion, or its rollout is under way.
    """
    with database.session() as session:
        serialize(session.connection())
        running = active(session, task.name)
        if running is not None and running.adapter_id == adapter_id:
            raise BadInput(
                f"{adapter_id}: its rollout {running.rollout_id} is {running.state}",
                f"`finetune rollout status {task.name}` shows it; abort it first",
            )
        return _start(session, task, adapter_id, actor, reason, datetime.now(UTC))


def tick(database: Database, task: Task, now: datetime | None = None) -> Tick | None:
    """Lets the traffic since the last tick decide; None where no rollout is under way."""
    now = now or datetime.now(UTC)
    with database.reading() as session:
        if active(session, task.name) is None:
            return None
    with database.session() as session:
        serialize(session.connection())
        row = active(session, task.name)
        return None if row is None else _tick(session, task, row, now)


def by_hand(database: Database, task: Task, operation: Operation, *, actor: str, reason: str) -> Tick:
    """What a person decides about the rollout under way.

    Raises:
        BadInput: No rollout is under way, or not in a state that allows it.
    """
    now = datetime.now(UTC)
    with database.session() as session:
        serialize(session.connection())
        row = active(session, task.name)
        if row is None:
            raise BadInput(f"{task.name}: no rollout is under way", f"`finetune rollout start {task.name}` starts one")
        memory = memory_of(row)
        progress = memory.progress
        decisions: dict[Operation, Callable[[], Decision]] = {
            "step": lambda: operations.step(progress, task.rollout, reason, now),
            "hold": lambda: operations.hold(progress, reason),
            "resume": lambda: operations.resume(progress, now),
            "abort": lambda: operations.abort(progress, reason, now),
            "rollback": lambda: operations.roll_back(progress, reason, now),
        }
        return _carry_out(session, row, memory, decisions[operation](), actor, now, operation)


def demote(database: Database, task: str, *, actor: str, reason: str) -> str | None:
    """Takes the champion back: it answers nothing any more, the one before it (or the base model) does.

    A rollout under way is aborted by its next tick: what it was compared with is gone.

    Returns:
        The champion now; None is the base model.

    Raises:
        BadInput: No adapter is champion.
    """
    with database.session() as session:
        serialize(session.connection())
        champion = routes.current(session, task).plan.champion
        if champion is None:
            raise BadInput(f"{task}: no adapter is champion, the base model answers", f"`finetune history {task}`")
        route = routes.change_in(
            session,
            task,
            lambda plan: without(plan, champion),
            actor=actor,
            action="route.demote",
            reason=reason,
        )
        announce_demotion(session, task, champion, route.plan.champion, route.version, reason)
        if route.plan.champion is not None:
            _note_champion(session, task, route.plan.champion, actor, reason)
        return route.plan.champion


def _newest_of(session: Session, task: str, adapter_id: str) -> RolloutRow | None:
    query = select(RolloutRow).where(RolloutRow.task == task, RolloutRow.adapter_id == adapter_id)
    return session.scalars(query.order_by(RolloutRow.created_at.desc()).limit(1)).first()


def _start(session: Session, task: Task, adapter_id: str, actor: str, reason: str, now: datetime) -> Tick:
    if (other := active(session, task.name)) is not None:
        superseded = operations.abort(memory_of(other).progress, f"{adapter_id} is newer", now)
        _carry_out(session, other, memory_of(other), superseded, actor, now)
    champion = routes.current(session, task.name).plan.champion
    if champion == adapter_id:
        raise BadInput(f"{adapter_id}: is the champion of {task.name}", "roll out another adapter")
    # Spans before the start belong to nobody's step.
    counted_until = bucket_of(now)
    progress = new_progress(task.rollout, slow_limit_before(session, task.name, champion, counted_until))
    row = RolloutRow(
        rollout_id=content_id("ro", [task.name, adapter_id, champion, now.isoformat()]),
        task=task.name,
        adapter_id=adapter_id,
        champion_id=champion,
        state="pending",
        message="",
        progress={},
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    memory = Memory(progress=progress, counted_until=counted_until)
    decision = operations.start(progress, task.rollout, now)
    if reason:
        decision = decision.model_copy(update={"message": f"{decision.message}: {reason}"})
    return _carry_out(session, row, memory, decision, actor, now, "start")


def _tick(session: Session, task: Task, row: RolloutRow, now: datetime) -> Tick:
    memory = memory_of(row)
    champion = routes.current(session, task.name).plan.champion
    if champion != row.champion_id:
        reason = f"{champion or 'the base model'} has taken the place of {row.champion_id or 'the base model'}"
        return _carry_out(session, row, memory, operations.abort(memory.progress, reason, now), "rollout", now)
    until = max(memory.counted_until, last_closed(now, GRACE))
    rows = told(session, task.name, memory.counted_until, until)
    progress = memory.progress
    if progress.slow_limit_ms is None:
        limit = slow_limit_before(session, task.name, champion, memory.counted_until)
        progress = progress.model_copy(update={"slow_limit_ms": limit})
    decision, counted_until = _decide(task.rollout, row, progress, rows, until, now)
    after = memory.model_copy(update={"counted_until": counted_until})
    return _carry_out(session, row, after, decision, "rollout", now)


def _decide(
    rollout: Rollout, row: RolloutRow, progress: Progress, rows: Sequence[Told], until: datetime, now: datetime
) -> tuple[Decision, datetime]:
    """What the traffic of some spans amounts to, and up to where it is counted.

    Spans may be long past where nobody ticked for hours. Each may take the canary back, or have it held; a step is
    only taken now, when all have been seen: its hours begin when its share does.
    """
    watching = rollout.model_copy(update={"automatic": False})
    for bucket, span in groupby(rows, key=lambda one: one.bucket):
        end = min(now, bucket + timedelta(seconds=BUCKET_S))
        decision = advance(progress, watching, *_arms_of(row, list(span), progress.slow_limit_ms), end)
        if decision.action != "stay":
            return decision, bucket
        progress = decision.progress
    decision = advance(progress, rollout, ArmCounts(), ArmCounts(), now)
    # What was served before a change of share, and is not told yet, belongs to nobody's step.
    return decision, bucket_of(now) if decision.action == "promote_step" else until


def _arms_of(row: RolloutRow, span: Sequence[Told], limit_ms: float | None) -> tuple[ArmCounts, ArmCounts]:
    """What canary and champion did in a span."""
    canary = total(span, row.adapter_id, ("canary", "shadow"))
    champion = total(span, row.champion_id or BASE, champion_arms(row.champion_id))
    return arm_counts(canary, limit_ms), arm_counts(champion, limit_ms)


def _carry_out(
    session: Session, row: RolloutRow, memory: Memory, decision: Decision, actor: str, now: datetime, verb: str = ""
) -> Tick:
    """Writes a decision down: memory, route, promotion, audit entry and announcement, together.

    Args:
        verb: What a person did; empty: the rules decided.
    """
    before = memory.progress
    row.progress = memory.model_copy(update={"progress": decision.progress}).model_dump(mode="json")
    row.message, row.updated_at = decision.message, now
    changed = row.state != decision.progress.state or decision.action != "stay"
    row.state = decision.progress.state
    if changed:
        audit.record(
            session,
            actor=actor,
            action=f"rollout.{verb or decision.action}",
            subject=row.task,
            reason=decision.message,
            details={"rollout": row.rollout_id, "adapter": row.adapter_id, "from": before.place, "state": row.state},
        )
        routes.change_in(
            session,
            row.task,
            lambda plan: _plan_after(plan, row, decision.progress),
            actor=actor,
            action=f"route.{decision.action}",
            reason=decision.message,
        )
        announce_decision(session, row, decision, now)
    if decision.progress.state == "promoted" and decision.action == "finish":
        _note_champion(session, row.task, row.adapter_id, actor, decision.message)
    session.flush()
    return Tick(row.rollout_id, row.adapter_id, decision, changed)


def _plan_after(plan: Plan, row: RolloutRow, progress: Progress) -> Plan:
    adapter = row.adapter_id
    nobody: dict[str, object] = {"canary": None, "canary_share": 0.0, "shadow": None, "shadow_share": 0.0}
    if progress.active:
        withdrawn = [a for a in plan.withdrawn if a != adapter]
        if progress.shadow:
            return edited(plan, **{**nobody, "shadow": adapter, "shadow_share": 1.0, "withdrawn": withdrawn})
        shares = {"canary": adapter, "canary_share": progress.percent / 100, "salt": row.rollout_id}
        return edited(plan, **{**nobody, **shares, "withdrawn": withdrawn})
    if progress.state == "promoted":
        return edited(plan, **nobody, champion=adapter, previous_champion=plan.champion)
    if progress.state == "rolled_back":
        return without(plan, adapter)
    return edited(plan, **nobody)


def _note_champion(session: Session, task: str, adapter_id: str, actor: str, reason: str) -> None:
    query = select(Promotion).where(Promotion.task == task, Promotion.alias == "champion")
    newest = session.scalars(query.order_by(Promotion.id.desc()).limit(1)).first()
    if newest is not None and newest.adapter_id == adapter_id:
        return
    session.add(
        Promotion(
            task=task,
            adapter_id=adapter_id,
            alias="champion",
            previous_adapter_id=newest.adapter_id if newest else None,
            evaluation_id=None,
            actor=actor,
            reason=reason,
            mlflow_version=None,
        )
    )
