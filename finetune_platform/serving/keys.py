"""API keys as they are stored: made, listed, rotated, revoked, each change with its audit entry in one transaction.

The key itself is shown once and never stored: 256 random bits need no salt and no slow hash. Recognising a caller by a
key is `callers.py`'s business.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session

from finetune_platform import audit
from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.errors import BadInput
from finetune_platform.serving.permissions import EVERY_TASK, ROLES
from finetune_platform.serving.tables import ApiKeyRow
from finetune_platform.strict import nearest

KEY = re.compile(r"ftk_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""No slash: the gateway joins tenant and session by one."""

NAME_LENGTH = 128
MOST_PER_MINUTE = 2**31 - 1
MOST_HOURS = 24 * 365
ACTIONS = ("key.create", "key.rotate", "key.revoke")
"""Of the audit log; whoever watches keys watches these."""


class ApiKey(BaseModel):
    """What is known of a key: who, what for, until when. Limits of None are none, and so is `expires_at`."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    key_id: str
    name: str
    roles: tuple[str, ...]
    tasks: tuple[str, ...]
    tenant: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def state(self, now: datetime) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


def sha256_of(key: str) -> str:
    """What is stored of a key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def create_key(
    database: Database,
    *,
    name: str,
    roles: Sequence[str],
    tasks: Sequence[str],
    known_tasks: Collection[str],
    actor: str,
    tenant: str = "",
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, ApiKey]:
    """Makes a key.

    Args:
        name: What people call it: the application that holds it.
        roles: Of `permissions.ROLES`.
        tasks: Names of tasks, or `["*"]` for every task, those of tomorrow too.
        known_tasks: What tasks there are.
        actor: Who makes it, as in `audit.record`.
        tenant: The one tenant whose requests it makes; "" for none.
        requests_per_minute: Per gateway.
        tokens_per_minute: Prompt and completion together, per gateway.
        expires_at: From then on it is refused.

    Returns:
        The key, which cannot be shown again, and what is known of it.

    Raises:
        BadInput: An unknown role or task (with the nearest one), or another value that cannot be.
    """
    _check_words("role", roles, ROLES)
    _check_words("task", tasks, [*sorted(known_tasks), EVERY_TASK])
    _check_rest(name, tasks, tenant, {"requests": requests_per_minute, "tokens": tokens_per_minute}, expires_at)
    with database.session() as session:
        serialize(session.connection())
        key, row = _fresh(session)
        row.name, row.roles, row.tasks, row.tenant = name, sorted(set(roles)), sorted(set(tasks)), tenant
        row.requests_per_minute, row.tokens_per_minute = requests_per_minute, tokens_per_minute
        row.expires_at = expires_at
        session.add(row)
        session.flush()
        made = ApiKey.model_validate(row)
        audit.record(session, actor=actor, action="key.create", subject=made.key_id, details=_scope(made))
        return key, made


def list_keys(database: Database) -> list[ApiKey]:
    """Every key that was ever made, oldest first."""
    with database.reading() as session:
        rows = session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.key_id))
        return [ApiKey.model_validate(row) for row in rows]


def revoke_key(database: Database, key_id: str, actor: str, reason: str) -> ApiKey:
    """Takes a key back for good; one that is revoked already stays as it is.

    Raises:
        BadInput: No such key, or no reason.
    """
    if not reason.strip():
        raise BadInput(f"{key_id}: a revocation needs a reason", 'say why: --reason "left the team"')
    with database.session() as session:
        row = _row(session, key_id)
        if row.revoked_at is None:
            row.revoked_at = datetime.now(UTC)
            session.flush()
            audit.record(session, actor=actor, action="key.revoke", subject=row.key_id, reason=reason)
        return ApiKey.model_validate(row)


def rotate_key(database: Database, key_id: str, actor: str, overlap_hours: float = 0.0) -> tuple[str, ApiKey]:
    """Makes a key of the same scope and takes the old one back.

    A key that was made to live for some time is followed by one that lives as long, from now on.

    Args:
        key_id: The old key's.
        actor: As in `audit.record`.
        overlap_hours: How long the old key may still be used; 0: not at all. It never lives longer than before.

    Raises:
        BadInput: No such key, a revoked or expired one, or an overlap that cannot be.
    """
    if not 0 <= overlap_hours <= MOST_HOURS:
        raise BadInput(f"overlap: {overlap_hours} hours", f"give 0 to {MOST_HOURS}")
    with database.session() as session:
        old, now = _row(session, key_id), datetime.now(UTC)
        if (state := ApiKey.model_validate(old).state(now)) != "active":
            raise BadInput(f"{key_id}: it is {state}", "`finetune key create` makes another")
        key, row = _fresh(session)
        row.name, row.roles, row.tasks, row.tenant = old.name, old.roles, old.tasks, old.tenant
        row.requests_per_minute, row.tokens_per_minute = old.requests_per_minute, old.tokens_per_minute
        row.expires_at = None if old.expires_at is None else now + (old.expires_at - old.created_at)
        session.add(row)
        _end(old, now, timedelta(hours=overlap_hours))
        session.flush()
        made, ended = ApiKey.model_validate(row), ApiKey.model_validate(old)
        details = {"new": {"key_id": made.key_id, **_scope(made)}, "old": _scope(ended)}
        audit.record(session, actor=actor, action="key.rotate", subject=old.key_id, details=details)
        return key, made


def _end(row: ApiKeyRow, now: datetime, overlap: timedelta) -> None:
    if not overlap:
        row.revoked_at = now
    else:
        row.expires_at = now + overlap if row.expires_at is None else min(row.expires_at, now + overlap)


def _fresh(session: Session) -> tuple[str, ApiKeyRow]:
    key_id = secrets.token_hex(4)
    while session.get(ApiKeyRow, key_id) is not None:
        key_id = secrets.token_hex(4)
    key = f"ftk_{key_id}_{secrets.token_urlsafe(32)}"
    row = ApiKeyRow(key_id=key_id, sha256=sha256_of(key), created_at=datetime.now(UTC))
    return key, row


def _row(session: Session, key_id: str) -> ApiKeyRow:
    # First of all: who changes a key and then waits for the audit log would lock out who does it in the other order.
    serialize(session.connection())
    row = session.get(ApiKeyRow, key_id)
    if row is None:
        known = list(session.scalars(select(ApiKeyRow.key_id)))
        # Somebody may paste the key itself: it must not come back in a message.
        shown = found.group(1) if (found := KEY.fullmatch(key_id)) else key_id[:32]
        raise BadInput(f"{shown}: no such key id{nearest(key_id, known)}", "`finetune key list` shows them")
    return row


def _scope(key: ApiKey) -> dict[str, object]:
    return key.model_dump(mode="json", exclude={"key_id", "created_at"})


def _check_words(kind: str, words: Sequence[str], known: Sequence[str]) -> None:
    if not words:
        raise BadInput(f"{kind}s: a key needs at least one {kind}", f"choose from {', '.join(known)}")
    for word in words:
        if word not in known:
            raise BadInput(f"{word}: no such {kind}{nearest(word, known)}", f"choose from {', '.join(known)}")


def _check_rest(
    name: str, tasks: Sequence[str], tenant: str, per_minute: dict[str, int | None], expires_at: datetime | None
) -> None:
    if not 0 < len(name.strip()) <= len(name) <= NAME_LENGTH or not name.isprintable():
        raise BadInput(f"name: {name[:NAME_LENGTH]!r}", f"1 to {NAME_LENGTH} printable characters")
    if EVERY_TASK in tasks and set(tasks) != {EVERY_TASK}:
        raise BadInput("tasks: * already means every task", "give * alone, or the names alone")
    if tenant and not TENANT.fullmatch(tenant):
        raise BadInput(f"tenant: {tenant[:64]!r}", "up to 64 letters, digits, dots, underscores and hyphens")
    for what, limit in per_minute.items():
        if limit is not None and not 0 < limit <= MOST_PER_MINUTE:
            raise BadInput(f"{what}_per_minute: {limit}", f"give 1 to {MOST_PER_MINUTE}, or leave it out for no limit")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise BadInput(f"expires_at: {expires_at.isoformat()} is over", "give a moment to come")
