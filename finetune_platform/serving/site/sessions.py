"""Who is signed in at a site: keys and tokens in this process's memory, a signed id in the cookie.

The key itself is looked up anew at every look, so one that is revoked opens nothing from the next look on. How a
person signs in is `signing_in.py`'s.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_platform.serving.callers import Caller, Directory, Refused
from finetune_platform.serving.permissions import Permission

LASTS_S = 12 * 3600.0
MOST = 1000


@dataclass(frozen=True)
class Session:
    """One signed-in browser; `id` is known to it alone."""

    id: str = field(repr=False)
    credential: str = field(repr=False)
    ends_at: float


class Sessions:
    """Everybody who is signed in at one site of this gateway.

    Args:
        directory: Recognises keys and tokens.
        secret: Signs the cookies.
        needed: The permission without which nobody gets in.
        clock: Monotonic seconds.
    """

    def __init__(
        self, directory: Directory, secret: bytes, needed: Permission, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory, self._secret, self._needed, self._clock = directory, secret, needed, clock
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def begin(self, credential: str) -> str:
        """Signs somebody in.

        Args:
            credential: An API key or a bearer token.

        Returns:
            The cookie's value.

        Raises:
            Refused: It is nobody's, or may not enter.
        """
        self._recognise(credential)
        session = Session(secrets.token_urlsafe(32), credential, self._clock() + LASTS_S)
        with self._lock:
            self._forget_ended()
            while len(self._open) >= MOST:
                del self._open[next(iter(self._open))]
            self._open[session.id] = session
        return f"{session.id}.{self._signature(session.id)}"

    def of(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None for one that is forged, ended or of an earlier process."""
        session_id, _, signature = (cookie or "").partition(".")
        # A header may hold anything; compare_digest takes text of ASCII alone.
        if not hmac.compare_digest(self._signature(session_id).encode(), signature.encode("utf-8", "replace")):
            return None
        session = self._open.get(session_id)
        return session if session is not None and self._clock() < session.ends_at else None

    def caller(self, session: Session) -> Caller:
        """Who a session speaks for, as of now.

        Raises:
            Refused: 401 or 403, its key is not good any more or it has ended; 503, that cannot be told yet.
        """
        if self._open.get(session.id) is not session or self._clock() >= session.ends_at:
            raise Refused(401, "you are signed out", {})
        try:
            return self._recognise(session.credential)
        except Refused as refused:
            if refused.status in (401, 403):
                self.end(session)
            raise

    def end(self, session: Session) -> None:
        """Signs out."""
        with self._lock:
            self._open.pop(session.id, None)

    def _recognise(self, credential: str) -> Caller:
        caller = self._directory.authenticate(f"Bearer {credential}")
        caller.require(self._needed)
        return caller

    def _signature(self, session_id: str) -> str:
        return hmac.new(self._secret, session_id.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def _forget_ended(self) -> None:
        now = self._clock()
        self._open = {key: session for key, session in self._open.items() if now < session.ends_at}
