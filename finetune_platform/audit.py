"""The audit log: who did what to whom and why, append-only, each entry chained to the one before by its hash.

A changed, removed or inserted entry breaks the chain at that place, and `verify` names it. Every change that a person
or the platform makes to what serves, to who may call and to what is kept is written here, in the same transaction.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import JSON, Select, String, Text, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from finetune_platform.database import Base, Database, UtcDateTime
from finetune_platform.database_engine import serialize
from finetune_platform.errors import BadInput
from finetune_platform.identity import canonical_json

GENESIS = "0" * 64
"""What the first entry is chained to."""

PAGE = 1000
ACTOR_LENGTH = 128
ACTION_LENGTH = 64
SUBJECT_LENGTH = 128
UNREADABLE = (ValueError, TypeError, RecursionError)
"""What reading or hashing a row raises that somebody wrote by hand: no JSON, no date, no text."""


class AuditEntry(Base):
    """One entry; `digest` is the SHA-256 of its content and of `previous`, the digest of the entry before."""

    __tablename__ = "audit_log"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(ACTOR_LENGTH))
    action: Mapped[str] = mapped_column(String(ACTION_LENGTH), index=True)
    subject: Mapped[str] = mapped_column(String(SUBJECT_LENGTH), index=True)
    reason: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class Broken(NamedTuple):
    """Where the chain breaks (the id of an entry; 0: at its end), and how."""

    entry: int
    problem: str


class Verification(NamedTuple):
    """What was found: `entries` were read, the last has the digest `head`; the chain holds if nothing is `broken`."""

    entries: int
    head: str
    broken: list[Broken]


def record(
    session: Session, *, actor: str, action: str, subject: str, reason: str = "", details: dict[str, Any] | None = None
) -> AuditEntry:
    """Appends an entry in the caller's transaction: what it tells of and the entry are kept or lost together.

    Args:
        session: An open transaction; until it ends nobody else appends.
        actor: Who: `cli:USER`, `key:KEY_ID`, `dagster run ID`, `gateway`.
        action: What, as `noun.verb`: `route.kill`, `key.revoke`.
        subject: To whom: a task's name, a key's id.
        reason: Why, in words.
        details: What a reader needs to understand it later; JSON.

    Raises:
        BadInput: A text is longer than its column, or has characters that a database cannot hold.
        ValueError: `details` has a number that JSON cannot hold.
    """
    check(actor=actor, action=action, subject=subject, reason=reason)
    serialize(session.connection())
    last = session.scalars(select(AuditEntry.digest).order_by(AuditEntry.id.desc()).limit(1)).first()
    entry = AuditEntry(
        at=datetime.now(UTC),
        actor=actor,
        action=action,
        subject=subject,
        reason=reason,
        details=_as_stored(details or {}),
        previous=last or GENESIS,
    )
    entry.digest = digest_of(entry)
    session.add(entry)
    session.flush()
    return entry


def check(*, actor: str, action: str, subject: str, reason: str) -> None:
    """Refuses what `record` would: for who writes the same words to other tables first.

    Raises:
        BadInput: A text is longer than its column, or has characters that a database cannot hold.
    """
    _check("actor", actor, ACTOR_LENGTH)
    _check("action", action, ACTION_LENGTH)
    _check("subject", subject, SUBJECT_LENGTH)
    _check("reason", reason, None)


def digest_of(entry: AuditEntry) -> str:
    """What `digest` must be."""
    content = [
        entry.at.astimezone(UTC).isoformat(),
        entry.actor,
        entry.action,
        entry.subject,
        entry.reason,
        entry.details,
        entry.previous,
    ]
    return hashlib.sha256(canonical_json(content).encode("utf-8", "surrogatepass")).hexdigest()


def entries(database: Database, subject: str | None = None) -> Iterator[AuditEntry]:
    """Every entry (of one subject, if named), oldest first, read in pages.

    Raises:
        BadInput: A row cannot be read: `verify` names it.
    """
    last: int | None = None
    while True:
        query = _page(select(AuditEntry), last)
        if subject is not None:
            query = query.where(AuditEntry.subject == subject)
        try:
            with database.reading() as session:
                page = list(session.scalars(query))
        except UNREADABLE as error:
            raise BadInput("audit log: an entry cannot be read", "`finetune audit verify` names it") from error
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1].id


def verify(database: Database, head: str | None = None) -> Verification:
    """Follows the chain from the first entry to the last.

    Args:
        head: The digest of the last entry as somebody noted it elsewhere: without it, entries cut off at the end, or
            a log written anew from the first entry on, leave no trace.
    """
    broken: list[Broken] = []
    previous, before, count, seen = GENESIS, 0, 0, head in (None, GENESIS)
    for number, entry in _readable_entries(database):
        count += 1
        if entry is None:
            broken.append(Broken(number, "it cannot be read: somebody wrote to this row"))
            # The link to the entry after it is unknown, so that one is not blamed.
            previous, before = "", number
            continue
        if previous and entry.previous != previous:
            where = f"entry {before}" if before else "the beginning of the log"
            broken.append(Broken(number, f"it does not follow {where}: one there was removed, inserted or changed"))
        if not _holds(entry):
            broken.append(Broken(number, "its content is not what was written"))
        previous, before = entry.digest, number
        seen = seen or previous == head
    if not seen:
        broken.append(Broken(0, f"no entry has the digest {head}: the end was cut off, or the log was written anew"))
    return Verification(count, previous, broken)


def _holds(entry: AuditEntry) -> bool:
    try:
        return digest_of(entry) == entry.digest
    except UNREADABLE:
        return False


def _readable_entries(database: Database) -> Iterator[tuple[int, AuditEntry | None]]:
    """Every entry by its id, oldest first; None for a row that is none."""
    last: int | None = None
    while True:
        with database.reading() as session:
            numbers = list(session.scalars(_page(select(AuditEntry.id), last)))
        try:
            with database.reading() as session:
                found = session.scalars(select(AuditEntry).where(AuditEntry.id.in_(numbers)))
                page: dict[int, AuditEntry | None] = {entry.id: entry for entry in found}
        except UNREADABLE:
            page = {number: _entry(database, number) for number in numbers}
        yield from ((number, page[number]) for number in numbers if number in page)
        if len(numbers) < PAGE:
            return
        last = numbers[-1]


def _entry(database: Database, number: int) -> AuditEntry | None:
    try:
        with database.reading() as session:
            return session.get(AuditEntry, number)
    except UNREADABLE:
        return None


def _page(query: Select[Any], last: int | None) -> Select[Any]:
    # No first id is taken for granted: a row inserted by hand may have a negative one.
    after = query if last is None else query.where(AuditEntry.id > last)
    return after.order_by(AuditEntry.id).limit(PAGE)


def _as_stored(details: dict[str, Any]) -> dict[str, Any]:
    """The value that the database gives back: keys are text, tuples are lists. Its digest is the one that counts."""
    stored: dict[str, Any] = json.loads(canonical_json(details))
    return stored


def _check(field: str, value: str, most: int | None) -> None:
    if most is not None and len(value) > most:
        raise BadInput(f"audit log: {field} is {len(value)} characters long", f"at most {most} fit")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise BadInput(f"audit log: {field} has characters that a database cannot hold", "leave them out")
