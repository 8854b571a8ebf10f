"""What people should hear of: events written down once each, in the database, by whoever knows of them.

Any library package may announce, in the same transaction as the decision that it tells of. Sending what is written is
`notifications/`'s: an announcement never waits for a mail server, and none is lost where none is reached.
"""

from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from pydantic import Field
from sqlalchemy import JSON, Index, String, Text, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from finetune_platform.database import Base, Database, UtcDateTime
from finetune_platform.database_engine import serialize
from finetune_platform.manifests import Record
from finetune_platform.task_notifications import Kind

State = Literal["waiting", "sent", "silent", "given_up"]
"""`silent`: the task file does not want this kind to be told."""

MOST_CHARACTERS = 2000
"""Of a sentence; a failure's text may be as long as a log."""


class Event(Record):
    """Something that happened once.

    Attributes:
        kind: What it is; the task file says which kinds are told.
        task: Whose.
        subject: Tells it from others of its kind and task: `dr-…`, a run's id. Announced again it is the same event.
        what: What happened, in one sentence, with the figures.
        link: Where a person sees more: of `dagster_page`, `gateway_page`, `lake_file`; "" for nowhere.
        next_step: What to do: a command in backticks, or a page.
    """

    kind: Kind
    task: str = Field(max_length=64)
    subject: str = Field(max_length=120)
    what: str
    link: str = ""
    next_step: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.task}:{self.subject}"


class Notification(Base):
    """One event and what became of telling it.

    Attributes:
        delivered: Names of the targets that have it.
        attempts: Times that some target did not take it.
        error: Why, the last time.
        not_before: When it is tried next.
        claimed_until: A sender is at it; one that was killed leaves it to the others then.
        sent_at: When the first target had it.
        message_id: The message that it was part of; a bundle has several events.
    """

    __tablename__ = "notifications"
    __table_args__ = (
        Index("ix_notifications_state_not_before", "state", "not_before"),
        Index("ix_notifications_task_created_at", "task", "created_at"),
    )

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    what: Mapped[str] = mapped_column(Text)
    link: Mapped[str] = mapped_column(Text)
    next_step: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    state: Mapped[str] = mapped_column(String(16))
    delivered: Mapped[list[str]] = mapped_column(JSON)
    attempts: Mapped[int]
    error: Mapped[str] = mapped_column(Text)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    claimed_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    message_id: Mapped[str | None] = mapped_column(String(32))


def announce(database: Database, event: Event, now: datetime | None = None) -> bool:
    """Writes an event down in a transaction of its own; False where it is written already."""
    with database.session() as session:
        return announce_in(session, event, now)


def announce_in(session: Session, event: Event, now: datetime | None = None) -> bool:
    """Writes an event down in the caller's transaction: it is told if, and only if, that one is kept.

    Returns:
        False where the same event was announced before: it is told once.
    """
    serialize(session.connection())
    if session.get(Notification, event.key) is not None:
        return False
    now = now or datetime.now(UTC)
    row = Notification(
        key=event.key,
        task=event.task,
        kind=event.kind,
        what=_storable(event.what),
        link=_storable(event.link),
        next_step=_storable(event.next_step),
        created_at=now,
        state="waiting",
        delivered=[],
        attempts=0,
        error="",
        not_before=now,
    )
    session.add(row)
    session.flush()
    return True


def something_waits(database: Database, now: datetime) -> bool:
    """Whether an event could be sent now that no sender is at."""
    query = select(Notification.key).where(
        Notification.state == "waiting",
        Notification.not_before <= now,
        or_(Notification.claimed_until.is_(None), Notification.claimed_until <= now),
    )
    with database.reading() as session:
        return session.scalars(query.limit(1)).first() is not None


def dagster_page(path: str) -> str:
    """A page of Dagster's UI: `runs/ID`, `assets/TASK/ASSET`."""
    return f"dagster:{path}"


def gateway_page(path: str) -> str:
    """A page of the gateway."""
    return f"gateway:{path}"


def operators_page(task: str) -> str:
    """The operator's page of a task."""
    return gateway_page(f"operator/?task={quote(task)}")


def lake_file(path: str) -> str:
    """A file or folder in the lake, by its path inside it."""
    return f"lake:{path}"


def _storable(text: str) -> str:
    """No text keeps an event from being told: what a database cannot hold is replaced, what is too long is cut."""
    clean = "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)
    return clean if len(clean) <= MOST_CHARACTERS else clean[: MOST_CHARACTERS - 1] + "…"
