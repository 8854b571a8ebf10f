"""Tables of the people's work: batches of rows, what each person said of each row, who has a row open.

What they mean stands where they are used. A changed table needs a revision in `migrations/versions/`.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import JSON, Boolean, Float, ForeignKeyConstraint, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from finetune_platform.database import Base, UtcDateTime
from finetune_platform.labeling.items import Decision, Source

RetrainingState = Literal["started", "done", "failed"]


def _now() -> datetime:
    return datetime.now(UTC)


class ReviewBatchRow(Base):
    """One batch of rows for experts. `cause` says what asked for it, and is asked for once a task.

    `state` is `open` until somebody (or the loop) closes it: then nobody can answer any more and its labels count.
    """

    __tablename__ = "review_batches"
    __table_args__ = (Index("ix_review_batches_task_cause", "task", "cause", unique=True),)

    batch_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    cause: Mapped[str] = mapped_column(String(256))
    reason: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ReviewItemRow(Base):
    """One row of a batch. `content` is what `items.Item` holds of it; it never changes."""

    __tablename__ = "review_items"
    __table_args__ = (
        ForeignKeyConstraint(["batch_id"], ["review_batches.batch_id"]),
        Index("ix_review_items_interaction", "interaction_id"),
    )

    batch_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    interaction_id: Mapped[str | None] = mapped_column(String(64))
    content: Mapped[dict[str, Any]] = mapped_column(JSON)


class AnnotationRow(Base):
    """What one person said of one item; saying something else replaces it. Nobody writes another person's.

    `adjudication` marks the word that decides a disagreement.
    """

    __tablename__ = "annotations"
    __table_args__ = (
        ForeignKeyConstraint(["batch_id", "number"], ["review_items.batch_id", "review_items.number"]),
        Index("ix_annotations_external_id", "external_id", unique=True),
    )

    batch_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    reviewer: Mapped[str] = mapped_column(String(128), primary_key=True)
    decision: Mapped[Decision] = mapped_column(String(16))
    answer: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text, default="")
    rating: Mapped[int | None] = mapped_column(Integer)
    seconds: Mapped[float] = mapped_column(Float, default=0.0)
    adjudication: Mapped[bool] = mapped_column(Boolean, default=False)
    source: Mapped[Source] = mapped_column(String(32))
    external_id: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class LeaseRow(Base):
    """Who has an item open, and until when nobody else is given it. `draft` is what they have typed so far."""

    __tablename__ = "review_leases"

    batch_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    reviewer: Mapped[str] = mapped_column(String(128), primary_key=True)
    until: Mapped[datetime] = mapped_column(UtcDateTime)
    draft: Mapped[str | None] = mapped_column(Text)


class RetrainingRow(Base):
    """One retraining that a batch's labels started: so the same batch starts one, whoever looks how often."""

    __tablename__ = "retrainings"
    __table_args__ = (Index("ix_retrainings_task_started_at", "task", "started_at"),)

    batch_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    state: Mapped[RetrainingState] = mapped_column(String(16))
    note: Mapped[str] = mapped_column(Text, default="")
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class LabelStudioProjectRow(Base):
    """The project of a batch in Label Studio.

    `tasks` is how many tasks it had when all of the batch's were there. What changed there at `changes_since` or later
    has not been fetched, but for tasks up to `read_to` where a reading that began at `reading_began` (by the server's
    clock) is under way. `ended` means that people there have been told that the batch is closed.
    """

    __tablename__ = "label_studio_projects"
    __table_args__ = (ForeignKeyConstraint(["batch_id"], ["review_batches.batch_id"]),)

    batch_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[int] = mapped_column(Integer)
    tasks: Mapped[int | None] = mapped_column(Integer)
    changes_since: Mapped[datetime] = mapped_column(UtcDateTime)
    read_to: Mapped[int] = mapped_column(Integer, default=0)
    reading_began: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
