"""Traffic in numbers: what each arm of each task did, added up in memory and told to the database every second.

Every gateway writes rows of its own under the moment of telling, never under that of serving: a span of time that is
over never changes, so rollouts and plots read each count once. Whole interactions are `interactions.py`'s.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.errors import FinetuneError
from finetune_platform.serving.latency_bins import LATENCY_BINS_MS, latency_bin
from finetune_platform.serving.tables import TrafficCount

TELL_S = 1.0
BUCKET_S = 10
"""Seconds of traffic in one row: a day of one arm is 8,640 rows a gateway."""

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What happened to some requests; every field adds up.

    `good` answers came, in a valid format where the task has one, and did not refuse. `latency` counts answers by the
    bins of `LATENCY_BINS_MS`.
    """

    n: int = 0
    good: int = 0
    errors: int = 0
    format_n: int = 0
    invalid_format: int = 0
    refusals: int = 0
    feedback_n: int = 0
    feedback_negative: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BINS_MS) + 1))

    def add(self, other: "Counts") -> None:
        for one in fields(self):
            if one.name != "latency":
                setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.latency = [a + b for a, b in zip(self.latency, other.latency, strict=True)]


class ArmKey(NamedTuple):
    """Whose traffic: `adapter` is an id, or "base"."""

    task: str
    adapter: str
    arm: str


@dataclass
class _Attempt:
    """A write whose end is not known: it was done if `key`'s row of `bucket` says `whole`."""

    bucket: datetime
    untold: dict[ArmKey, Counts]
    key: ArmKey
    whole: Counts


class Traffic:
    """Counts of this gateway.

    Args:
        database: Where they are told.
        gateway: This process's own name: no two write the same row.
        clock: Now, UTC.
    """

    def __init__(
        self,
        database: Database,
        gateway: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        tell_s: float = TELL_S,
    ) -> None:
        self._database, self._gateway, self._clock, self._tell_s = database, gateway, clock, tell_s
        self._untold: dict[ArmKey, Counts] = {}
        self._attempt: _Attempt | None = None
        self._newest = datetime.min.replace(tzinfo=UTC)
        self._away = False
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tells what is left."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self.tell()

    def answered(
        self,
        key: ArmKey,
        *,
        latency_ms: float,
        format_valid: bool | None,
        refused: bool,
        prompt_tokens: int,
        completion_tokens: int,
    ) -> None:
        """Counts an answer."""
        with self._lock:
            counts = self._untold.setdefault(key, Counts())
            counts.n += 1
            counts.good += format_valid is not False and not refused
            counts.format_n += format_valid is not None
            counts.invalid_format += format_valid is False
            counts.refusals += refused
            counts.prompt_tokens += prompt_tokens
            counts.completion_tokens += completion_tokens
            counts.latency[latency_bin(latency_ms)] += 1

    def failed(self, key: ArmKey) -> None:
        """Counts a request that the arm could not answer."""
        with self._lock:
            counts = self._untold.setdefault(key, Counts())
            counts.n += 1
            counts.errors += 1

    def rated(self, key: ArmKey, positive: bool) -> None:
        """Counts one word of feedback."""
        with self._lock:
            counts = self._untold.setdefault(key, Counts())
            counts.feedback_n += 1
            counts.feedback_negative += not positive

    def tell(self) -> bool:
        """Writes what has been counted; False where the database is away: it is told later then."""
        with self._telling:
            with self._lock:
                untold, self._untold = self._untold, {}
            attempt = self._attempt
            if not untold and attempt is None:
                return True
            try:
                self._write(untold)
            except FinetuneError as error:
                if not self._away:
                    log.warning("traffic counts wait: %s", error.problem)
                self._away = True
                if self._attempt is attempt:
                    with self._lock:
                        _add_all(self._untold, untold)
                return False
            self._away = False
            return True

    def _write(self, untold: dict[ArmKey, Counts]) -> None:
        with self._database.session() as session:
            # The lock before the clock: whoever waited for it must not write to a span that is over by then.
            serialize(session.connection())
            batch = self._left_over(session)
            _add_all(batch, untold)
            # A clock that was set back opens no span again.
            bucket = self._newest = max(bucket_of(self._clock()), self._newest)
            attempt = None
            for key, counts in batch.items():
                attempt = _Attempt(bucket, batch, key, self._put(session, key, bucket, counts))
            session.flush()
            self._attempt = attempt
        self._attempt = None

    def _left_over(self, session: Session) -> dict[ArmKey, Counts]:
        """What the last attempt did not write: where its commit was not answered, the database knows."""
        if (last := self._attempt) is None:
            return {}
        row = session.get(TrafficCount, self._place(last.key, last.bucket))
        done = row is not None and Counts(**row.counts) == last.whole
        left: dict[ArmKey, Counts] = {}
        if not done:
            _add_all(left, last.untold)
        return left

    def _put(self, session: Session, key: ArmKey, bucket: datetime, counts: Counts) -> Counts:
        """Adds to a row; what it says now."""
        whole = Counts()
        whole.add(counts)
        row = session.get(TrafficCount, self._place(key, bucket))
        if row is None:
            session.add(TrafficCount(**self._place(key, bucket), counts=asdict(whole)))
        else:
            whole.add(Counts(**row.counts))
            row.counts = asdict(whole)
        return whole

    def _place(self, key: ArmKey, bucket: datetime) -> dict[str, Any]:
        """A row's primary key."""
        return {
            "gateway": self._gateway,
            "task": key.task,
            "adapter_id": key.adapter,
            "arm": key.arm,
            "bucket": bucket,
        }

    def _run(self) -> None:
        while not self._ending.wait(self._tell_s):
            self.tell()


class Told(NamedTuple):
    """Counts of one arm in one span of time, all gateways together."""

    bucket: datetime
    key: ArmKey
    counts: Counts


def told(session: Session, task: str, after: datetime, until: datetime) -> list[Told]:
    """What was told of a task in spans with `after` < start <= `until`, oldest first."""
    query = select(TrafficCount).where(
        TrafficCount.task == task, TrafficCount.bucket > after, TrafficCount.bucket <= until
    )
    found: dict[tuple[datetime, ArmKey], Counts] = {}
    for row in session.scalars(query.order_by(TrafficCount.bucket)):
        key = ArmKey(row.task, row.adapter_id, row.arm)
        found.setdefault((row.bucket, key), Counts()).add(Counts(**row.counts))
    return [Told(bucket, key, counts) for (bucket, key), counts in found.items()]


def total(rows: Iterable[Told], adapter: str, arms: Sequence[str]) -> Counts:
    """All of an adapter's traffic as one of `arms`."""
    whole = Counts()
    for row in rows:
        if row.key.adapter == adapter and row.key.arm in arms:
            whole.add(row.counts)
    return whole


def bucket_of(moment: datetime) -> datetime:
    """Start of the span of time that a moment lies in."""
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % BUCKET_S, UTC)


def last_closed(now: datetime, grace: timedelta) -> datetime:
    """The newest span of time that no gateway writes to any more."""
    return bucket_of(now - grace) - timedelta(seconds=BUCKET_S)


def forget(database: Database, before: datetime) -> int:
    """Deletes the counts of spans that began before a moment; how many rows. Rollouts look back a day at most."""
    with database.session() as session:
        deleted = session.execute(delete(TrafficCount).where(TrafficCount.bucket < before))
        return int(deleted.rowcount)  # type: ignore[attr-defined]


def _add_all(to: dict[ArmKey, Counts], more: dict[ArmKey, Counts]) -> None:
    for key, counts in more.items():
        to.setdefault(key, Counts()).add(counts)
