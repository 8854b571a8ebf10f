"""The monitor's tables: what each task's evidence is now, and every tick. What they mean stands in `monitor.py`.

A changed table needs a revision in `migrations/versions/`.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Boolean, Float, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from finetune_platform.database import Base, UtcDateTime


class DriftState(Base):
    """One task's evidence since its champion took over.

    `seen_until` is the moment up to which rows were looked at; `alarm_since` is the alarm that nobody has ended yet.
    """

    __tablename__ = "drift_states"

    task: Mapped[str] = mapped_column(String(64), primary_key=True)
    champion: Mapped[str] = mapped_column(String(64))
    reference_id: Mapped[str | None] = mapped_column(String(64))
    evidence: Mapped[dict[str, Any]] = mapped_column(JSON)
    ticks: Mapped[int] = mapped_column(Integer)
    seen_until: Mapped[datetime] = mapped_column(UtcDateTime)
    alarm_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, default=lambda: datetime.now(UTC), onupdate=lambda: datetime.now(UTC)
    )


class DriftTick(Base):
    """One look at the rows from `since` to `until`, and what all channels said after it."""

    __tablename__ = "drift_ticks"
    __table_args__ = (
        Index("ix_drift_ticks_of_a_reference", "task", "reference_id", "number", unique=True),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    reference_id: Mapped[str] = mapped_column(String(64))
    number: Mapped[int] = mapped_column(Integer)
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    until: Mapped[datetime] = mapped_column(UtcDateTime)
    rows: Mapped[int] = mapped_column(Integer)
    counted: Mapped[int] = mapped_column(Integer)
    e_value: Mapped[float] = mapped_column(Float)
    channels: Mapped[dict[str, float]] = mapped_column(JSON)
    alarm: Mapped[bool] = mapped_column(Boolean)
