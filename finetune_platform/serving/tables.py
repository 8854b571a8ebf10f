"""The gateway's tables: routes, rollouts, traffic counts, keys, feedback. What they mean stands where they are used.

A changed table needs a revision in `migrations/versions/`. The audit log has a file of its own, `audit.py`.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from finetune_platform.database import Base, UtcDateTime


def _now() -> datetime:
    return datetime.now(UTC)


class RouteChange(Base):
    """One state of a task's route; the one with the highest `id` is in force, the others are its history."""

    __tablename__ = "route_changes"
    __table_args__ = (Index("ix_route_changes_task_id", "task", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    actor: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class RolloutRow(Base):
    """One rollout. `progress` is the state machine's memory, written whole after every step."""

    __tablename__ = "rollouts"
    __table_args__ = (Index("ix_rollouts_task_created_at", "task", "created_at"),)

    rollout_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    adapter_id: Mapped[str] = mapped_column(String(64))
    champion_id: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(Text, default="")
    progress: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class TrafficCount(Base):
    """What one gateway told of one arm in one short span of time; `counts` is `traffic.Counts`."""

    __tablename__ = "traffic_counts"
    __table_args__ = (Index("ix_traffic_counts_task_bucket", "task", "bucket"),)

    gateway: Mapped[str] = mapped_column(String(64), primary_key=True)
    task: Mapped[str] = mapped_column(String(64), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    arm: Mapped[str] = mapped_column(String(16), primary_key=True)
    bucket: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    counts: Mapped[dict[str, Any]] = mapped_column(JSON)


class ApiKeyRow(Base):
    """One key: never the key itself, only the SHA-256 of it."""

    __tablename__ = "api_keys"

    key_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(128))
    roles: Mapped[list[str]] = mapped_column(JSON)
    tasks: Mapped[list[str]] = mapped_column(JSON)
    tenant: Mapped[str] = mapped_column(String(64), default="")
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class FeedbackRow(Base):
    """The last word on one interaction; more words on it replace it, so that nobody votes twice."""

    __tablename__ = "feedback"

    interaction_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    task: Mapped[str] = mapped_column(String(64), index=True)
    adapter_id: Mapped[str] = mapped_column(String(64))
    arm: Mapped[str] = mapped_column(String(16))
    positive: Mapped[bool | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=_now)


class InstallationSecret(Base):
    """Random bytes that all gateways of an installation share, made by the first that needs them."""

    __tablename__ = "installation_secrets"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(128))
