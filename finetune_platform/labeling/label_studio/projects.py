"""Which project a batch is in, and how far it has been read: what is kept here of Label Studio.

Requests belong in `server.py`.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import select, update

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.labeling.tables import AnnotationRow, LabelStudioProjectRow, ReviewBatchRow

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Place(NamedTuple):
    """How far a project has been read; `tables.LabelStudioProjectRow` says what the fields mean."""

    changes_since: datetime = BEGINNING
    read_to: int = 0
    reading_began: datetime | None = None


class Known(NamedTuple):
    """A batch's project, `tasks` as in `tables.LabelStudioProjectRow`."""

    project_id: int
    tasks: int | None
    place: Place


def known_project(database: Database, batch_id: str) -> Known | None:
    """The project of a batch that has one."""
    with database.reading() as session:
        row = session.get(LabelStudioProjectRow, batch_id)
        return None if row is None else _known(row)


def keep_project(database: Database, batch_id: str, project_id: int) -> Known:
    """Notes a batch's project; the one that was noted first, where somebody was faster."""
    with database.session() as session:
        serialize(session.connection())
        row = session.get(LabelStudioProjectRow, batch_id)
        if row is None:
            row = LabelStudioProjectRow(batch_id=batch_id, project_id=project_id, ended=False, **Place()._asdict())
            session.add(row)
        return _known(row)


def note(database: Database, batch_id: str, **fields: Any) -> None:
    """Notes how far a batch's project is."""
    with database.session() as session:
        session.execute(
            update(LabelStudioProjectRow).where(LabelStudioProjectRow.batch_id == batch_id).values(**fields)
        )


def forget(database: Database, batch_id: str) -> None:
    """Lets a batch have another project in place of one that is lost; what people said there stays.

    Their annotations lose the names they had there: another server may use the same for others.
    """
    with database.session() as session:
        serialize(session.connection())
        row = session.get(LabelStudioProjectRow, batch_id)
        if row is not None:
            session.delete(row)
        session.execute(
            update(AnnotationRow)
            .where(AnnotationRow.batch_id == batch_id, AnnotationRow.source == "label_studio")
            .values(external_id=None)
        )


def unfinished_batches(database: Database, task: str) -> list[str]:
    """Batches with something to do in Label Studio: open ones, and closed ones whose people have not been told."""
    query = (
        select(ReviewBatchRow.batch_id)
        .outerjoin(LabelStudioProjectRow, LabelStudioProjectRow.batch_id == ReviewBatchRow.batch_id)
        .where(ReviewBatchRow.task == task)
        .where((ReviewBatchRow.state == "open") | LabelStudioProjectRow.ended.is_(False))
        .order_by(ReviewBatchRow.created_at, ReviewBatchRow.batch_id)
    )
    with database.reading() as session:
        return list(session.scalars(query))


def _known(row: LabelStudioProjectRow) -> Known:
    return Known(row.project_id, row.tasks, Place(row.changes_since, row.read_to, row.reading_began))
