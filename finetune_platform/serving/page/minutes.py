"""A task's traffic by the minute, kept in memory: spans that are over never change, so each is read once.

Plots of a day would else read tens of thousands of rows at every look.
"""

import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from finetune_platform.serving.rollouts import GRACE
from finetune_platform.serving.traffic import ArmKey, Counts, Told, last_closed, told

KEPT = timedelta(hours=25)
AT_ONCE = timedelta(hours=1)
"""How much is read by one query: between two of them requests are served."""

Minutes = dict[tuple[datetime, ArmKey], Counts]


class MinuteTraffic:
    """Traffic of one task, as far back as somebody looked."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._closed: Minutes = {}
        self._since: datetime | None = None
        self._until: datetime | None = None
        self._lock = threading.Lock()

    def read(self, session: Session, since: datetime, now: datetime) -> list[Told]:
        """Traffic of whole minutes from `since` on, and of the one under way, oldest first.

        Args:
            session: Only reads.
            since: Start of a minute.
            now: The moment.
        """
        with self._lock:
            until = last_closed(now, GRACE)
            # Spans are read by `start > after`: one microsecond earlier takes in the span that starts at `since`.
            before = since - timedelta(microseconds=1)
            if self._since is None or self._until is None:
                self._since = self._until = before
            if before < self._since:
                self._add(session, before, self._since)
                self._since = before
            self._add(session, self._until, until)
            self._until = max(until, self._until)
            self._forget(now)
            minutes = {key: counts for key, counts in self._closed.items() if key[0] >= since}
        minutes = _summed(minutes, told(session, self._task, until, now))
        return [Told(minute, key, counts) for (minute, key), counts in sorted(minutes.items())]

    def _add(self, session: Session, after: datetime, until: datetime) -> None:
        while after < until:
            end = min(after + AT_ONCE, until)
            self._closed = _summed(self._closed, told(session, self._task, after, end))
            after = end

    def _forget(self, now: datetime) -> None:
        oldest = minute_of(now - KEPT)
        if any(minute < oldest for minute, _ in self._closed):
            self._closed = {key: counts for key, counts in self._closed.items() if key[0] >= oldest}
        self._since = max(self._since or oldest, oldest - timedelta(microseconds=1))


def minute_of(moment: datetime) -> datetime:
    """Start of a moment's minute, UTC."""
    return moment.astimezone(UTC).replace(second=0, microsecond=0)


def _summed(minutes: Minutes, rows: Iterable[Told]) -> Minutes:
    """A copy with `rows` added; what is in `minutes` stays as it is."""
    added: Minutes = {}
    for row in rows:
        key = (minute_of(row.bucket), row.key)
        if key not in added:
            added[key] = Counts()
            if key in minutes:
                added[key].add(minutes[key])
        added[key].add(row.counts)
    return {**minutes, **added}
