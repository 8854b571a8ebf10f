"""Who calls: a key or a person's token becomes a `Caller`, by a snapshot in memory and without a look at the database.

A thread reads the keys several times a second, so that a revoked key is refused everywhere within one. While the
database is away the last snapshot serves on without end: nobody can revoke a key then either, and applications must
not stop for it. Keys made meanwhile wait. A key's own expiry needs no database and is always kept.
"""

import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from finetune_platform.audit import AuditEntry
from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError
from finetune_platform.serving.keys import ACTIONS, KEY, ApiKey, sha256_of
from finetune_platform.serving.oidc import BadToken, KeysAwaited, People, Person
from finetune_platform.serving.permissions import EVERY_TASK, Permission, allows
from finetune_platform.serving.tables import ApiKeyRow
from finetune_platform.settings import Settings

POLL_S = 0.25
FULL_READ_S = 10.0
"""The audit log tells of every change that this platform makes; a row changed by hand is seen by a full read."""

MAX_TOKEN_LENGTH = 8192
SCHEME = "bearer"

log = logging.getLogger(__name__)


class Refused(Exception):
    """A caller who may not go on, with what the caller is told: nothing about why a key is not valid."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what that may be.

    Attributes:
        key_id: A key's id, or `oidc-…` (a hash) for a person; the same for every request of the same caller.
        actor: As the audit log names it.
        tenant: The one tenant that it speaks for; "" for none.
        requests_per_minute: None for no limit; as `tokens_per_minute`.
    """

    key_id: str
    actor: str
    name: str
    roles: tuple[str, ...]
    tasks: tuple[str, ...]
    tenant: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def may(self, permission: Permission) -> bool:
        return allows(self.roles, permission)

    def require(self, permission: Permission) -> None:
        """Goes on if the caller has a permission.

        Raises:
            Refused: 403, it has not.
        """
        if not self.may(permission):
            raise Refused(403, f"this needs the permission {permission}", _challenge("insufficient_scope"))

    def may_use(self, task: str) -> bool:
        return EVERY_TASK in self.tasks or task in self.tasks


class _Known(NamedTuple):
    sha256: str
    expires_at: datetime | None
    caller: Caller


class Directory:
    """Every key that is in force, as of a moment ago, and the people of an identity provider.

    Args:
        database: Where the keys are.
        people: Whoever signs in by OpenID Connect; None: nobody does.
        poll_s: Seconds between two looks.
        clock: The moment, with its zone.
    """

    def __init__(
        self,
        database: Database,
        people: People | None = None,
        poll_s: float = POLL_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database, self._people, self._poll_s, self._clock = database, people, poll_s, clock
        self._known: Mapping[str, _Known] = {}
        self._version: int | None = None
        self._looked_at = self._read_at = float("-inf")
        self._looking = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caller-directory", daemon=True)

    @classmethod
    def of(cls, place: Settings, database: Database) -> "Directory":
        """The directory of an installation."""
        people = People(place.oidc_issuer, place.oidc_audience, place.oidc_roles_claim) if place.oidc_issuer else None
        return cls(database, people)

    def start(self) -> None:
        """Reads the keys once, then on in a thread.

        Raises:
            FinetuneError: The database does not answer.
        """
        self.look()
        self._thread.start()
        if self._people is not None:
            self._people.start()

    def stop(self) -> None:
        self._ending.set()
        if self._people is not None:
            self._people.stop()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def age_s(self) -> float:
        """Seconds since the database last answered."""
        return time.monotonic() - self._looked_at

    def look(self) -> None:
        """Reads the keys if any has changed; call it where a key was just revoked.

        Raises:
            FinetuneError: The database does not answer.
        """
        with self._looking:
            now_s = time.monotonic()
            with self._database.reading() as session:
                # The version first: what changes in between is read again at the next look.
                version = _version(session)
                if version != self._version or now_s - self._read_at >= FULL_READ_S:
                    self._known = _keys_in_force(session)
                    self._version, self._read_at = version, now_s
            self._looked_at = now_s

    def authenticate(self, header: str | None) -> Caller:
        """Who sent a request with this `Authorization` header.

        Raises:
            Refused: 401, nobody we know; 503, the provider's signing keys are on their way.
        """
        scheme, _, token = (header or "").strip().partition(" ")
        token = token.strip()
        if scheme.lower() != SCHEME or not token:
            raise Refused(401, "no API key was given: send the header Authorization: Bearer KEY", _challenge())
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise _not_valid()
        if (found := KEY.fullmatch(token)) is not None:
            return self._by_key(found.group(1), token)
        if self._people is None:
            raise _not_valid()
        return _by_token(self._people, token)

    def _by_key(self, key_id: str, key: str) -> Caller:
        known = self._known.get(key_id)
        # Also for an id that nobody has: how long it takes must not tell which ids exist.
        matches = hmac.compare_digest(sha256_of(key), known.sha256 if known else "0" * 64)
        if known is None or not matches:
            raise _not_valid()
        if known.expires_at is not None and known.expires_at <= self._clock():
            raise _not_valid()
        return known.caller

    def _run(self) -> None:
        away = False
        while not self._ending.wait(self._poll_s):
            try:
                self.look()
            except (FinetuneError, SQLAlchemyError, ValueError) as error:
                # A thread that ended here would keep revoked keys in force: it outlives whatever the database says.
                if not away:
                    log.warning("keys cannot be read, the last ones serve on: %s", str(error).splitlines()[0])
                away = True
            else:
                if away:
                    log.warning("keys are read again")
                away = False


def _by_token(people: People, token: str) -> Caller:
    try:
        person: Person = people.recognise(token)
    except KeysAwaited as error:
        raise Refused(503, "the sign-in keys are being fetched, try again", {"retry-after": "1"}) from error
    except BadToken as error:
        raise _not_valid() from error
    return Caller(person.id, person.actor, person.name, person.roles, person.tasks)


# A subquery an action goes to the end of its own index; IN (…) would read the whole of it.
_NEWEST = select(
    *(select(func.max(AuditEntry.id)).where(AuditEntry.action == action).scalar_subquery() for action in ACTIONS)
)


def _version(session: Session) -> int | None:
    return max((number for number in session.execute(_NEWEST).one() if number is not None), default=0)


def _keys_in_force(session: Session) -> dict[str, _Known]:
    found: dict[str, _Known] = {}
    for row in session.scalars(select(ApiKeyRow).where(ApiKeyRow.revoked_at.is_(None))):
        try:
            found[row.key_id] = _Known(row.sha256, row.expires_at, _caller(ApiKey.model_validate(row)))
        except ValidationError:
            # Somebody wrote it by hand: one wrong row must not keep everybody's revocations from being heard.
            log.warning("the key %s is not in force: its row cannot be read", row.key_id)
    return found


def _caller(key: ApiKey) -> Caller:
    return Caller(
        key_id=key.key_id,
        actor=f"key:{key.key_id}",
        name=key.name,
        roles=key.roles,
        tasks=key.tasks,
        tenant=key.tenant,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
    )


def _challenge(error: str | None = None) -> dict[str, str]:
    return {"www-authenticate": 'Bearer realm="finetune"' + (f', error="{error}"' if error else "")}


def _not_valid() -> Refused:
    return Refused(401, "the API key or token is not valid", _challenge("invalid_token"))
