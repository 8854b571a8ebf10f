"""What is known of a task's drift between two looks, in the database. How it comes about is `monitor.py`'s."""

from dataclasses import asdict
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.drift.evidence import Evidence
from finetune_platform.drift.tables import DriftState, DriftTick
from finetune_platform.drift.wealth import Wealth
from finetune_platform.errors import TransientError


class Champion(NamedTuple):
    """Who serves a task (an adapter, or "base"), and since when."""

    name: str
    since: datetime


class Known(NamedTuple):
    """What is known of a champion's traffic.

    Attributes:
        reference_id: None: there is none yet, and no evidence.
        seen_until: Up to when rows were looked at; without a reference, from when on they are gathered.
        alarm_since: The alarm that nobody has ended.
    """

    reference_id: str | None
    evidence: Evidence | None
    seen_until: datetime
    alarm_since: datetime | None


def known_of(database: Database, task: str, champion: Champion) -> Known:
    """What the last look left; nothing where the champion is a new one."""
    with database.reading() as session:
        return _known(session, task, champion)


def keep(
    database: Database, task: str, champion: Champion, before: Known, after: Known, tick: DriftTick | None
) -> None:
    """Writes what a look found, in one transaction.

    Raises:
        TransientError: `before` is not what is known any more: another look was faster.
    """
    assert after.evidence is not None
    with database.session() as session:
        serialize(session.connection())
        if _known(session, task, champion) != before:
            raise TransientError(f"{task}: another look at the same traffic was faster", "look again")
        state = session.get(DriftState, task) or DriftState(task=task)
        state.champion, state.reference_id = champion.name, after.reference_id
        state.evidence = {name: asdict(channel) for name, channel in after.evidence.channels.items()}
        state.ticks, state.seen_until, state.alarm_since = after.evidence.ticks, after.seen_until, after.alarm_since
        session.add(state)
        if tick is not None:
            session.add(tick)


def forget(database: Database, task: str, now: datetime) -> bool:
    """Ends an alarm and forgets the reference: the next one is gathered from `now` on. False where there was none."""
    with database.session() as session:
        serialize(session.connection())
        state = session.get(DriftState, task)
        if state is None or state.reference_id is None:
            return False
        state.reference_id, state.evidence, state.ticks = None, {}, 0
        state.seen_until, state.alarm_since = now, None
        return True


def ticks_of(database: Database, task: str, reference_id: str) -> list[DriftTick]:
    """All looks with a reference, in their order."""
    query = select(DriftTick).where(DriftTick.task == task, DriftTick.reference_id == reference_id)
    with database.reading() as session:
        return list(session.scalars(query.order_by(DriftTick.number)))


def _known(session: Session, task: str, champion: Champion) -> Known:
    state = session.get(DriftState, task)
    if state is None or state.champion != champion.name:
        return Known(None, None, champion.since, None)
    if state.reference_id is None:
        return Known(None, None, state.seen_until, None)
    channels = {
        name: Wealth(tuple(kept["logs"]), tuple(tuple(counts) for counts in kept["counts"]))
        for name, kept in state.evidence.items()
    }
    return Known(state.reference_id, Evidence(state.ticks, channels), state.seen_until, state.alarm_since)
