"""Small mutable state at `DATABASE_URL`: which artifacts were made, and which adapter holds which alias since when.

Tables, their queries and the way to a database belong here; what an artifact is says its manifest in the lake.
A changed table needs a revision in `migrations/versions/`, with its id in `HEAD`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sqlalchemy import JSON, DateTime, Engine, Index, Select, String, Text, inspect, select, text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from finetune_platform.database_engine import (
    READ_ONLY,
    VERSION_TABLE,
    address,
    database_failures,
    make_engine,
    migrate,
    parse_url,
    serialize,
)
from finetune_platform.manifests import Manifest

HEAD = "0007"
"""The newest revision; a database that has it is used without loading Alembic."""

ALIASES = ("candidate", "champion")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always with its zone: SQLite forgets it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The tables of this database."""


class Artifact(Base):
    """One making of an artifact; the latest of a task and asset is the one with the highest `id`."""

    __tablename__ = "artifacts"
    __table_args__ = (
        Index("ix_artifacts_task_asset_id", "task", "asset", "id"),
        Index("ix_artifacts_artifact_id", "artifact_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    artifact_id: Mapped[str] = mapped_column(String(64))
    task: Mapped[str] = mapped_column(String(64))
    asset: Mapped[str] = mapped_column(String(64))
    uri: Mapped[str] = mapped_column(Text)
    parents: Mapped[dict[str, str]] = mapped_column(JSON)
    dagster_run_id: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=lambda: datetime.now(UTC))


class Promotion(Base):
    """One alias change: from here on `adapter_id` holds `alias` ("candidate" or "champion") of the task."""

    __tablename__ = "promotions"
    __table_args__ = (Index("ix_promotions_task_alias_id", "task", "alias", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    adapter_id: Mapped[str] = mapped_column(String(64))
    alias: Mapped[str] = mapped_column(String(32))
    previous_adapter_id: Mapped[str | None] = mapped_column(String(64))
    evaluation_id: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(Text)
    mlflow_version: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=lambda: datetime.now(UTC))


class Making(Base):
    """What an asset was last made with; `note` is that of `registry/making.py`."""

    __tablename__ = "makings"

    task: Mapped[str] = mapped_column(String(64), primary_key=True)
    asset: Mapped[str] = mapped_column(String(64), primary_key=True)
    note: Mapped[dict[str, Any]] = mapped_column(JSON)


class Database:
    """The database at one URL; its schema is brought up to date on first use, safely from several processes.

    Args:
        url: `sqlite:///FILE` (its folder is made) or `postgresql+psycopg://…`.

    Raises:
        BadInput: Another kind of URL, or a database that a newer version of the platform has changed.
        Unreachable: It does not answer, or refuses.
        StorageFailed: The SQLite file cannot be written.
    """

    def __init__(self, url: str) -> None:
        self._url = parse_url(url)
        self._upgraded = False
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """The URL without its password."""
        return address(self._url)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: commits at the end, rolls back on an error; rows stay readable afterwards."""
        self.upgrade()
        with database_failures(self._url), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads: it waits for no writer and makes none wait."""
        self.upgrade()
        bind = self._engine.execution_options(**{READ_ONLY: True})
        with database_failures(self._url), Session(bind, expire_on_commit=False) as session:
            yield session

    def upgrade(self) -> None:
        """Brings the schema to `HEAD` unless it is there."""
        with self._lock:
            if self._upgraded:
                return
            with database_failures(self._url):
                if self._revision() != HEAD:
                    migrate(self._engine)
            self._upgraded = True

    def close(self) -> None:
        """Gives the connections back; the next use opens new ones."""
        self._engine.dispose()

    def record_artifact(self, manifest: Manifest, asset: str, uri: str, dagster_run_id: str | None) -> bool:
        """Writes down that an artifact was made; False where it is the latest of its task and asset already."""
        with self.session() as session:
            serialize(session.connection())
            latest = session.scalars(_latest(manifest.task, asset)).first()
            if latest is not None and latest.artifact_id == manifest.artifact_id:
                return False
            session.add(
                Artifact(
                    artifact_id=manifest.artifact_id,
                    task=manifest.task,
                    asset=asset,
                    uri=uri,
                    parents=manifest.parents,
                    dagster_run_id=dagster_run_id,
                )
            )
            return True

    def latest_artifact(self, task: str, asset: str) -> Artifact | None:
        """What an asset of a task is now."""
        with self.session() as session:
            return session.scalars(_latest(task, asset)).first()

    def artifact(self, artifact_id: str) -> Artifact | None:
        """The latest record of an artifact."""
        with self.session() as session:
            query = select(Artifact).where(Artifact.artifact_id == artifact_id).order_by(Artifact.id.desc())
            return session.scalars(query.limit(1)).first()

    def artifacts_of(self, task: str) -> list[Artifact]:
        """Every record of a task, oldest first."""
        with self.session() as session:
            return list(session.scalars(select(Artifact).where(Artifact.task == task).order_by(Artifact.id)))

    def note_making(self, task: str, asset: str, note: dict[str, Any]) -> None:
        """Replaces what is noted of an asset's last making."""
        with self.session() as session:
            session.merge(Making(task=task, asset=asset, note=note))

    def last_making(self, task: str, asset: str) -> dict[str, Any] | None:
        """What is noted of an asset's last making."""
        with self.session() as session:
            row = session.get(Making, (task, asset))
            return None if row is None else row.note

    def record_promotion(
        self,
        *,
        task: str,
        adapter_id: str,
        alias: str,
        previous_adapter_id: str | None,
        evaluation_id: str | None,
        actor: str,
        reason: str,
        mlflow_version: str | None,
    ) -> None:
        """Writes down that an adapter now holds an alias, who decided it and why."""
        if alias not in ALIASES:
            raise ValueError(f"{alias} is not one of {ALIASES}")
        with self.session() as session:
            session.add(
                Promotion(
                    task=task,
                    adapter_id=adapter_id,
                    alias=alias,
                    previous_adapter_id=previous_adapter_id,
                    evaluation_id=evaluation_id,
                    actor=actor,
                    reason=reason,
                    mlflow_version=mlflow_version,
                )
            )

    def current(self, task: str, alias: str) -> str | None:
        """The adapter that holds an alias now."""
        query = select(Promotion.adapter_id).where(Promotion.task == task, Promotion.alias == alias)
        with self.session() as session:
            return session.scalars(query.order_by(Promotion.id.desc()).limit(1)).first()

    def promotions(self, task: str) -> list[Promotion]:
        """Every alias change of a task, oldest first."""
        with self.session() as session:
            return list(session.scalars(select(Promotion).where(Promotion.task == task).order_by(Promotion.id)))

    @cached_property
    def _engine(self) -> Engine:
        return make_engine(self._url)

    def _revision(self) -> str | None:
        with self._engine.connect() as connection:
            if not inspect(connection).has_table(VERSION_TABLE):
                return None
            return connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))


def _latest(task: str, asset: str) -> Select[Artifact]:
    return select(Artifact).where(Artifact.task == task, Artifact.asset == asset).order_by(Artifact.id.desc()).limit(1)
