"""A person's way through a batch: the next row, a draft that is not lost, an answer, a decision on others' answers.

Everybody writes their own annotation only, so nobody overwrites anybody; a row that somebody has open is given to
nobody else until their lease ends.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.errors import BadInput
from finetune_platform.labeling.batches import Reviewed, read_batch
from finetune_platform.labeling.items import Decision, Item, Source
from finetune_platform.labeling.tables import AnnotationRow, LeaseRow, ReviewBatchRow, ReviewItemRow

MOST_CHARS = 100_000
MOST_SECONDS = 3600.0
"""Of one row: a page left open over lunch is not a row that took an hour."""


class Annotation(NamedTuple):
    """What somebody says of an item; `Said` says what the fields mean. `external_id` is that of the other system."""

    decision: Decision
    answer: str | None = None
    reason: str = ""
    rating: int | None = None
    seconds: float = 0.0
    source: Source = "pages"
    external_id: str | None = None


class Given(NamedTuple):
    """A row that somebody has open until `until`; `draft` is what they typed before."""

    row: Reviewed
    until: datetime
    draft: str | None


def next_row(database: Database, batch_id: str, reviewer: str, lease: timedelta) -> Given | None:
    """The first row that wants this person's answer, kept for them for a while; None where there is none.

    A row that they have open already comes first. Rows that as many others answered or have open as are wanted are
    left to those.

    Raises:
        BadInput: No such batch.
    """
    now = datetime.now(UTC)
    with database.session() as session:
        serialize(session.connection())
        batch = read_batch(database, batch_id)
        if not batch.is_open:
            return None
        leases = list(session.scalars(select(LeaseRow).where(LeaseRow.batch_id == batch_id, LeaseRow.until > now)))
        own = {lease.number for lease in leases if lease.reviewer == reviewer}
        waiting = [row for row in batch.rows if row.outcome.state == "open" and _wants(row, reviewer, leases)]
        chosen = next((row for row in waiting if row.number in own), waiting[0] if waiting else None)
        if chosen is None:
            return None
        held = session.get(LeaseRow, (batch_id, chosen.number, reviewer))
        if held is None:
            held = LeaseRow(batch_id=batch_id, number=chosen.number, reviewer=reviewer)
            session.add(held)
        held.until = now + lease
        return Given(chosen, held.until, held.draft)


def keep_draft(database: Database, batch_id: str, number: int, reviewer: str, draft: str, lease: timedelta) -> None:
    """Keeps what somebody has typed so far, and the row open for them.

    Raises:
        BadInput: It is too long.
    """
    _expect_length("draft", draft)
    with database.session() as session:
        serialize(session.connection())
        session.merge(
            LeaseRow(batch_id=batch_id, number=number, reviewer=reviewer, until=datetime.now(UTC) + lease, draft=draft)
        )


def draft_of(database: Database, batch_id: str, number: int, reviewer: str) -> str | None:
    """What somebody typed of a row and has not said yet; None where there is nothing."""
    with database.reading() as session:
        held = session.get(LeaseRow, (batch_id, number, reviewer))
        return None if held is None else held.draft


def annotate(
    database: Database, batch_id: str, number: int, reviewer: str, said: Annotation, labels: Sequence[str] = ()
) -> Reviewed:
    """Keeps what somebody says of a row, over what they said before.

    Args:
        labels: The only answers there are; any where there are none.

    Returns:
        The row as it is now.

    Raises:
        BadInput: No such row, its batch is closed, somebody has decided it already, or what is said is not whole.
    """
    _expect_whole(said, labels)
    with database.session() as session:
        serialize(session.connection())
        _open_item(session, batch_id, number)
        _expect_undecided(session, batch_id, number)
        _write(session, batch_id, number, reviewer, said, adjudication=False)
    return _row(database, batch_id, number)


def withdraw(database: Database, batch_id: str, number: int, reviewer: str) -> Reviewed:
    """Takes back what somebody said of a row, as if they had never opened it.

    Raises:
        BadInput: As `annotate`.
    """
    with database.session() as session:
        serialize(session.connection())
        _open_item(session, batch_id, number)
        _expect_undecided(session, batch_id, number)
        row = session.get(AnnotationRow, (batch_id, number, reviewer))
        if row is not None:
            session.delete(row)
    return _row(database, batch_id, number)


def adjudicate(
    database: Database, batch_id: str, number: int, reviewer: str, said: Annotation, labels: Sequence[str] = ()
) -> Reviewed:
    """Decides a row on which others disagreed, or that was flagged or skipped: an answer, or a flag to exclude it.

    Raises:
        BadInput: As `annotate`; or nothing is to be decided, or by somebody who answered the row, or a skip.
    """
    _expect_whole(said, labels)
    place = f"{batch_id} row {number}"
    if said.decision == "skip":
        raise BadInput(f"{place}: a decision cannot be a skip", "give the answer, or flag the row to exclude it")
    with database.session() as session:
        serialize(session.connection())
        _open_item(session, batch_id, number)
        decided_by = _decided_by(session, batch_id, number)
        if decided_by not in (None, reviewer):
            raise BadInput(f"{place}: {decided_by} has decided it", "go on with the next row")
        if decided_by is None:
            if session.get(AnnotationRow, (batch_id, number, reviewer)) is not None:
                raise BadInput(f"{place}: you answered it yourself", "somebody who did not must decide")
            # Under the lock nobody can have written since, so what another connection reads is what is.
            if _row(database, batch_id, number).outcome.state != "disputed":
                raise BadInput(f"{place}: there is nothing to decide", "go on with the next row")
        _write(session, batch_id, number, reviewer, said, adjudication=True)
    return _row(database, batch_id, number)


def disputes_for(database: Database, batch_id: str, reviewer: str) -> list[Reviewed]:
    """Rows that wait for a decision which this person may make.

    Raises:
        BadInput: No such batch.
    """
    rows = (row for row in read_batch(database, batch_id).rows if row.outcome.state == "disputed")
    return [row for row in rows if all(said.reviewer != reviewer for said in row.said)]


def _wants(row: Reviewed, reviewer: str, leases: Sequence[LeaseRow]) -> bool:
    if any(said.reviewer == reviewer for said in row.said):
        return False
    answered = {said.reviewer for said in row.said if said.decision == "answer"}
    skipped = {said.reviewer for said in row.said if said.decision == "skip"}
    opened = {lease.reviewer for lease in leases if lease.number == row.number} - {reviewer} - skipped
    return len(answered | opened) < row.item.wanted


def _expect_whole(said: Annotation, labels: Sequence[str]) -> None:
    if said.decision == "answer":
        if said.answer is None or not said.answer.strip():
            raise BadInput("the answer is empty", "write one, or skip or flag the row and say why")
        if labels and said.answer not in labels:
            raise BadInput(f'"{said.answer}" is none of the task\'s labels', f"choose one of {', '.join(labels)}")
        _expect_length("answer", said.answer)
    elif not said.reason.strip():
        raise BadInput(f"a {said.decision} needs a reason", "say in a few words what is wrong with the row")
    _expect_length("reason", said.reason)
    if said.rating is not None and not 1 <= said.rating <= 5:
        raise BadInput(f"the rating is {said.rating}", "rate from 1 to 5, or not at all")


def _expect_length(what: str, text: str) -> None:
    if len(text) > MOST_CHARS:
        raise BadInput(f"the {what} has {len(text):,} characters; at most {MOST_CHARS:,} are kept", "shorten it")


def _open_item(session: Session, batch_id: str, number: int) -> Item:
    batch, item = session.get(ReviewBatchRow, batch_id), session.get(ReviewItemRow, (batch_id, number))
    if batch is None or item is None:
        raise BadInput(f"{batch_id} row {number}: there is no such row", "go on with the next row")
    if batch.state != "open":
        raise BadInput(f"{batch_id}: this batch is closed", "its labels are in use; answer rows of the next batch")
    return Item.model_validate(item.content)


def _expect_undecided(session: Session, batch_id: str, number: int) -> None:
    if _decided_by(session, batch_id, number) is not None:
        raise BadInput(f"{batch_id} row {number}: it has been decided", "go on with the next row")


def _decided_by(session: Session, batch_id: str, number: int) -> str | None:
    query = select(AnnotationRow.reviewer).where(
        AnnotationRow.batch_id == batch_id, AnnotationRow.number == number, AnnotationRow.adjudication
    )
    return session.scalars(query).first()


def _write(
    session: Session, batch_id: str, number: int, reviewer: str, said: Annotation, *, adjudication: bool
) -> None:
    now = datetime.now(UTC)
    row = session.get(AnnotationRow, (batch_id, number, reviewer))
    if row is None:
        row = AnnotationRow(batch_id=batch_id, number=number, reviewer=reviewer, created_at=now)
        session.add(row)
    row.decision, row.answer = said.decision, said.answer if said.decision == "answer" else None
    row.reason, row.rating = said.reason.strip(), said.rating
    row.seconds = min(max(said.seconds, 0.0), MOST_SECONDS)
    row.adjudication, row.source, row.external_id, row.updated_at = adjudication, said.source, said.external_id, now
    session.execute(
        delete(LeaseRow).where(LeaseRow.batch_id == batch_id, LeaseRow.number == number, LeaseRow.reviewer == reviewer)
    )


def _row(database: Database, batch_id: str, number: int) -> Reviewed:
    return next(row for row in read_batch(database, batch_id).rows if row.number == number)
