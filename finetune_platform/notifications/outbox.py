"""Which message is to be sent now, and what became of it: the `notifications` table under its rules.

One message at a time is claimed for a while, so that two senders never send the same one; a sender that is killed
between sending and noting it leaves a message that is sent again when the claim has run out: at least once, and twice
only then. Pure database; handing messages over is in `sender.py`.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from finetune_platform.announcements import Notification
from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.task_notifications import Notifications

HOUR = timedelta(hours=1)
KEPT_FOR = timedelta(days=3)
"""How long an event may wait for somebody to take it: a weekend. News older than that is history."""

FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
URGENT = frozenset({"rollback"})
"""Kinds that wait behind no limit: there is at most one a rollout, and it is what people are woken for."""


@dataclass(frozen=True)
class Message:
    """Events of one task that are told together; `done` are the targets that have every one of them."""

    message_id: str
    task: str
    events: list[Notification]

    @property
    def keys(self) -> list[str]:
        return [event.key for event in self.events]

    @property
    def done(self) -> Collection[str]:
        return set.intersection(*(set(event.delivered) for event in self.events))


def claim(
    database: Database, tasks: Mapping[str, Notifications], now: datetime, claim_for: timedelta
) -> Message | None:
    """The next message to send, claimed; None where nothing waits that may be sent now.

    Args:
        tasks: What task files say, by task; of a task without a file the defaults hold.
        now: Aware.
        claim_for: How long nobody else takes it.
    """
    with database.session() as session:
        serialize(session.connection())
        _give_up(session, now)
        for task, rows in _waiting(session, now):
            settings = tasks.get(task, Notifications())
            wanted = [row for row in rows if row.kind in settings.kinds]
            for row in rows:
                if row not in wanted:
                    row.state = "silent"
            if chosen := _next(wanted, settings.most_per_hour - len(told := _told(session, task, now))):
                message_id = (chosen[0].sent_at and chosen[0].message_id) or uuid.uuid4().hex
                for row in chosen:
                    row.message_id, row.claimed_until = message_id, now + claim_for
                return Message(message_id, task, chosen)
            for row in wanted:
                row.not_before = min(told) + HOUR
    return None


def note_delivered(database: Database, message: Message, target: str, now: datetime) -> None:
    """Notes at once that a target has a message: what is noted is not sent there again."""
    with database.session() as session:
        for row in _rows(session, message):
            if target not in row.delivered:
                row.delivered = [*row.delivered, target]
            row.sent_at = row.sent_at or now


def finish(database: Database, message: Message, problems: Mapping[str, str], now: datetime) -> None:
    """Ends a claim: the message is sent, or tried again after a pause where a target did not take it.

    Args:
        problems: Why not, by target; empty: all have it.
    """
    with database.session() as session:
        for row in _rows(session, message):
            row.claimed_until = None
            row.error = "; ".join(f"{target}: {problem}" for target, problem in problems.items())
            if not problems:
                row.state = "sent"
                continue
            row.attempts += 1
            row.not_before = now + min(FIRST_PAUSE * 2 ** min(row.attempts - 1, 20), LONGEST_PAUSE)


def waiting(database: Database) -> int:
    """How many events nobody has been told of yet."""
    with database.reading() as session:
        query = select(func.count()).select_from(Notification).where(Notification.state == "waiting")
        return session.scalar(query) or 0


def newest(database: Database, task: str | None, count: int) -> list[Notification]:
    """The last events (of one task, if named), newest first."""
    query = select(Notification).order_by(Notification.created_at.desc(), Notification.key)
    if task is not None:
        query = query.where(Notification.task == task)
    with database.reading() as session:
        return list(session.scalars(query.limit(count)))


def _next(rows: Sequence[Notification], room: int) -> list[Notification]:
    """What of a task's waiting events makes the next message.

    Args:
        rows: Oldest first.
        room: How many messages the hour has room for.
    """
    if begun := [row for row in rows if row.sent_at is not None]:
        # Some of its targets have it: for the others it stays the message that it was.
        return [row for row in begun if row.message_id == begun[0].message_id]
    if urgent := [row for row in rows if row.kind in URGENT]:
        return urgent[:1]
    if room <= 0:
        return []
    return list(rows) if room == 1 else list(rows[:1])


def _told(session: Session, task: str, now: datetime) -> list[datetime]:
    """When the messages of the last hour were sent; those that another sender is at count as sent now.

    Urgent ones are not counted.
    """
    query = select(Notification.message_id, Notification.sent_at).where(
        Notification.task == task,
        Notification.kind.not_in(URGENT),
        or_(Notification.sent_at > now - HOUR, Notification.claimed_until > now),
    )
    return list({message_id: sent_at or now for message_id, sent_at in session.execute(query)}.values())


def _waiting(session: Session, now: datetime) -> list[tuple[str, list[Notification]]]:
    query = select(Notification).where(
        Notification.state == "waiting",
        Notification.not_before <= now,
        or_(Notification.claimed_until.is_(None), Notification.claimed_until <= now),
    )
    rows = session.scalars(query.order_by(Notification.task, Notification.created_at, Notification.key))
    return [(task, list(group)) for task, group in groupby(rows, key=lambda row: row.task)]


def _give_up(session: Session, now: datetime) -> None:
    session.execute(
        update(Notification)
        .where(
            Notification.state == "waiting",
            Notification.created_at < now - KEPT_FOR,
            or_(Notification.claimed_until.is_(None), Notification.claimed_until <= now),
        )
        .values(state="given_up")
    )


def _rows(session: Session, message: Message) -> list[Notification]:
    serialize(session.connection())
    return list(session.scalars(select(Notification).where(Notification.key.in_(message.keys))))
