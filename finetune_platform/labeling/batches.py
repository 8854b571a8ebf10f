"""Batches as they are stored: opened once for a cause, read whole, closed once.

What people do with an item belongs in `answering.py`; choosing rows in `choosing.py`.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.errors import BadInput
from finetune_platform.labeling.items import Item, Outcome, Said, State, outcome_of
from finetune_platform.labeling.tables import AnnotationRow, ReviewBatchRow, ReviewItemRow


class ToReview(NamedTuple):
    """An item on its way into a batch; `interaction_id` is None for gold rows."""

    interaction_id: str | None
    item: Item


class Reviewed(NamedTuple):
    """An item of a batch with everything that was said of it, and what follows."""

    number: int
    interaction_id: str | None
    item: Item
    said: tuple[Said, ...]
    outcome: Outcome


class Batch(NamedTuple):
    """A whole batch. `cause` is what asked for it, `reason` says so to people."""

    batch_id: str
    task: str
    cause: str
    reason: str
    is_open: bool
    created_at: datetime
    closed_at: datetime | None
    rows: tuple[Reviewed, ...]

    @property
    def states(self) -> Counter[State]:
        return Counter(row.outcome.state for row in self.rows)

    @property
    def is_complete(self) -> bool:
        """Nothing is left to answer or to decide."""
        return not self.states["open"] and not self.states["disputed"]


def open_batch(database: Database, task: str, batch_id: str, cause: str, reason: str, rows: Sequence[ToReview]) -> str:
    """Stores a batch for people; the id of the earlier one where the cause has had its batch.

    Args:
        batch_id: What it is called where there is none yet.
        cause: The same cause opens one batch, whoever asks how often.
    """
    with database.session() as session:
        serialize(session.connection())
        if (known := _of_cause(session, task, cause)) is not None:
            return known.batch_id
        session.add(ReviewBatchRow(batch_id=batch_id, task=task, cause=cause, reason=reason, state="open"))
        session.flush()
        session.add_all(
            ReviewItemRow(
                batch_id=batch_id,
                number=number,
                interaction_id=row.interaction_id,
                content=row.item.model_dump(mode="json"),
            )
            for number, row in enumerate(rows, start=1)
        )
    return batch_id


def batch_of_cause(database: Database, task: str, cause: str) -> str | None:
    """The batch that a cause has had."""
    with database.reading() as session:
        found = _of_cause(session, task, cause)
        return None if found is None else found.batch_id


def batches_of(database: Database, task: str) -> list[str]:
    """All batches of a task, oldest first."""
    query = select(ReviewBatchRow.batch_id).where(ReviewBatchRow.task == task)
    with database.reading() as session:
        return list(session.scalars(query.order_by(ReviewBatchRow.created_at, ReviewBatchRow.batch_id)))


def newest_batch(database: Database, task: str) -> str | None:
    """The batch that was opened last."""
    found = batches_of(database, task)
    return found[-1] if found else None


def newest_open_batch(database: Database, task: str) -> str | None:
    """The batch that was opened last of those that people can still answer."""
    query = select(ReviewBatchRow.batch_id).where(ReviewBatchRow.task == task, ReviewBatchRow.state == "open")
    newest_first = query.order_by(ReviewBatchRow.created_at.desc(), ReviewBatchRow.batch_id.desc())
    with database.reading() as session:
        return session.scalars(newest_first).first()


def read_batch(database: Database, batch_id: str) -> Batch:
    """A batch with everything that was said of it.

    Raises:
        BadInput: No such batch.
    """
    with database.reading() as session:
        row = session.get(ReviewBatchRow, batch_id)
        if row is None:
            raise BadInput(f"{batch_id}: no such batch", "`finetune labels TASK` lists a task's batches")
        of_batch = (ReviewItemRow.batch_id == batch_id, AnnotationRow.batch_id == batch_id)
        items = session.scalars(select(ReviewItemRow).where(of_batch[0]).order_by(ReviewItemRow.number)).all()
        said: dict[int, list[Said]] = defaultdict(list)
        for annotation in session.scalars(select(AnnotationRow).where(of_batch[1]).order_by(AnnotationRow.created_at)):
            said[annotation.number].append(said_by(annotation))
    reviewed = [_reviewed(item, said[item.number]) for item in items]
    return Batch(
        batch_id=row.batch_id,
        task=row.task,
        cause=row.cause,
        reason=row.reason,
        is_open=row.state == "open",
        created_at=row.created_at,
        closed_at=row.closed_at,
        rows=tuple(reviewed),
    )


def close_batch(database: Database, batch_id: str) -> Batch:
    """Ends a batch: nobody can answer any more. Closing it again changes nothing.

    Raises:
        BadInput: No such batch, or rows of it are neither settled nor excluded.
    """
    with database.session() as session:
        serialize(session.connection())
        row = session.get(ReviewBatchRow, batch_id)
        batch = read_batch(database, batch_id)
        if row is None or row.state == "closed":
            return batch
        if not batch.is_complete:
            left = batch.states["open"] + batch.states["disputed"]
            raise BadInput(
                f"{batch_id}: {left:,} of {len(batch.rows):,} rows are neither answered nor decided",
                "answer and adjudicate them on the review page",
            )
        row.state, row.closed_at = "closed", datetime.now(UTC)
    return read_batch(database, batch_id)


def said_by(row: AnnotationRow) -> Said:
    """What a stored annotation says."""
    return Said(
        reviewer=row.reviewer,
        decision=row.decision,
        answer=row.answer,
        reason=row.reason,
        rating=row.rating,
        seconds=row.seconds,
        adjudication=row.adjudication,
        at=row.updated_at,
        simulated=row.source == "simulated",
    )


def _reviewed(row: ReviewItemRow, said: Sequence[Said]) -> Reviewed:
    item = Item.model_validate(row.content)
    return Reviewed(row.number, row.interaction_id, item, tuple(said), outcome_of(item, said))


def _of_cause(session: Session, task: str, cause: str) -> ReviewBatchRow | None:
    query = select(ReviewBatchRow).where(ReviewBatchRow.task == task, ReviewBatchRow.cause == cause)
    return session.scalars(query).first()
