"""One look at a task's traffic: the rows since the last look, what they add to the evidence, an alarm or not.

A look may be repeated after any failure and may run twice at once: rows enter the evidence once.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import numpy as np

from finetune_platform.database import Database
from finetune_platform.drift.evidence import LIMIT, Evidence, categories_of
from finetune_platform.drift.kept_reference import REFERENCE_VERSION, publish_reference, read_reference
from finetune_platform.drift.null_bounds import Vectors
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.drift.sample import sampled
from finetune_platform.drift.state import Champion, Known, keep, known_of
from finetune_platform.drift.tables import DriftTick
from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id
from finetune_platform.lake import Lake
from finetune_platform.manifests import ReferenceManifest
from finetune_platform.manifests_drift import ChannelRecord, DriftManifest
from finetune_platform.progress import Report
from finetune_platform.repeats import counted
from finetune_platform.task import Task

MONITOR_VERSION = "2"

MOST_ROWS = 5000
"""Of a longer tick as many rows, drawn at random, are embedded: more would find nothing that these do not."""


class Embeds(Protocol):
    """Turns questions into vectors of length one; `id` names the model."""

    id: str

    def embed(self, texts: Sequence[str]) -> Vectors: ...


class Traffic(NamedTuple):
    """A task's logged traffic, and how to read it.

    Attributes:
        champion: Whose it is; a new champion begins anew.
        read: Gives the rows after one moment up to another, oldest first, in pieces that fit into memory.
        load_embedder: Called where there are rows to look at.
    """

    champion: Champion
    read: Callable[[datetime, datetime], Iterable[Sequence[TrafficRow]]]
    load_embedder: Callable[[], Embeds]


def look(task: Task, traffic: Traffic, lake: Lake, database: Database, now: datetime, report: Report) -> DriftManifest:
    """Looks at what was logged since the last look.

    Args:
        task: Its `drift` section is used.
        traffic: What was logged.
        lake: Where the reference is kept.
        database: Where the evidence is kept.
        now: Rows up to `settle_minutes` before it are looked at.
        report: Hears of progress.

    Returns:
        What was found; the evidence is kept, the manifest is not yet published.

    Raises:
        TransientError: Another look at the same rows was faster.
        BadInput: The reference was made with another embedder, or by a version with other channels.
    """
    until = now - timedelta(minutes=task.drift.settle_minutes)
    known = known_of(database, task.name, traffic.champion)
    begun = known if known.reference_id else _with_reference(task, traffic, known, until, lake, report)
    if isinstance(begun, DriftManifest):
        return begun
    assert begun.reference_id is not None
    reference = read_reference(lake, task.name, begun.reference_id)
    evidence = begun.evidence or Evidence.none(reference.channels)
    rows, logged, last = sampled(traffic.read(begun.seen_until, until), MOST_ROWS, evidence.ticks)
    kept: list[int] = []
    if rows:
        embedder = traffic.load_embedder()
        _expect_comparable(task, reference.manifest, embedder)
        report(f"{len(rows):,} of {logged:,} rows since {begun.seen_until:%Y-%m-%d %H:%M} UTC are embedded")
        vectors = embedder.embed([row.question for row in rows])
        kept = counted(rows, vectors)
        evidence = evidence.seen(
            reference.channels, categories_of(reference.channels, [rows[i] for i in kept], vectors[kept])
        )
    # The newest row's moment, not now: what a gateway could not flush while the lake was away may still come.
    seen_until = last or begun.seen_until
    alarm_since = begun.alarm_since or (seen_until if evidence.is_alarm else None)
    after = Known(begun.reference_id, evidence, seen_until, alarm_since)
    tick = _tick(task, begun, after, len(rows), len(kept)) if rows else None
    keep(database, task.name, traffic.champion, known, after, tick)
    return _found(task, traffic.champion, begun, after, len(rows), len(kept))


def _expect_comparable(task: Task, reference: ReferenceManifest, embedder: Embeds) -> None:
    """Stops where new rows would be judged by other vectors or other channels than the reference's evidence so far."""
    for made_by, now, mend in (
        (reference.embedder_id, embedder.id, "name the old embedder again under drift:"),
        (f"version {reference.code_version}", f"version {REFERENCE_VERSION}", "go back to the version before"),
    ):
        if made_by != now:
            raise BadInput(
                f"{task.name}: its reference {reference.artifact_id} was made by {made_by}, this is {now}",
                f"{mend}, or begin anew: `finetune drift {task.name} --anew`",
            )


def _with_reference(
    task: Task, traffic: Traffic, known: Known, until: datetime, lake: Lake, report: Report
) -> Known | DriftManifest:
    """A reference of the first rows that count; what is there so far where they are too few."""
    champion, wanted = traffic.champion, task.drift.reference_rows
    rows, kept, known_vectors = list[TrafficRow](), list[int](), list[Vectors]()
    pieces, embedded = iter(traffic.read(known.seen_until, until)), 0
    # No more of the log is read than is wanted: a task that was watched late has months of it, and needs the first.
    while len(kept) < wanted:
        while len(rows) - embedded < wanted and (piece := next(pieces, None)) is not None:
            rows += piece
        more = rows[embedded : embedded + wanted]
        if len(rows) < wanted or not more:
            return _gathering(task, champion, known.seen_until, until, len(rows), len(kept) or len(rows))
        embedder = traffic.load_embedder()
        report(f"{len(more):,} rows are embedded for the reference")
        known_vectors.append(embedder.embed([row.question for row in more]))
        embedded += len(more)
        vectors = np.concatenate(known_vectors)
        kept = counted(rows[:embedded], vectors)[:wanted]
    chosen = [rows[i] for i in kept]
    manifest = publish_reference(lake, task.name, champion.name, chosen, vectors[kept], embedder.id)
    report(f"{manifest.artifact_id}: the reference, {manifest.rows:,} rows")
    return Known(manifest.artifact_id, None, chosen[-1].timestamp, None)


def _tick(task: Task, before: Known, after: Known, rows: int, kept: int) -> DriftTick:
    assert after.reference_id is not None and after.evidence is not None
    return DriftTick(
        task=task.name,
        reference_id=after.reference_id,
        number=after.evidence.ticks,
        since=before.seen_until,
        until=after.seen_until,
        rows=rows,
        counted=kept,
        e_value=after.evidence.e_value,
        channels={name: channel.e_value for name, channel in after.evidence.channels.items()},
        alarm=after.alarm_since is not None,
    )


def _gathering(task: Task, champion: Champion, since: datetime, until: datetime, rows: int, kept: int) -> DriftManifest:
    return named(
        DriftManifest(
            artifact_id="",
            task=task.name,
            code_version=MONITOR_VERSION,
            status="gathering",
            headline=f"gathering the reference of {champion.name}: {kept:,} of {task.drift.reference_rows:,} rows",
            champion=champion.name,
            tick=0,
            since=since.isoformat(),
            until=until.isoformat(),
            rows=rows,
            counted=kept,
            e_value=1.0,
            limit=LIMIT,
            channels=[],
        )
    )


def _found(task: Task, champion: Champion, before: Known, after: Known, rows: int, kept: int) -> DriftManifest:
    assert after.reference_id is not None and after.evidence is not None
    evidence, alarm_since = after.evidence, after.alarm_since
    channels = sorted(evidence.channels.items(), key=lambda item: -item[1].e_value)
    if alarm_since is None:
        headline = f"no drift: evidence {evidence.e_value:,.1f} of {LIMIT:,.0f} after {evidence.ticks} ticks"
    else:
        headline = f"drift since {alarm_since:%Y-%m-%d %H:%M} UTC: {channels[0][0]} above all"
    return named(
        DriftManifest(
            artifact_id="",
            task=task.name,
            parents={"drift_reference": after.reference_id},
            alarms=[] if alarm_since is None else [after.reference_id],
            code_version=MONITOR_VERSION,
            status="quiet" if alarm_since is None else "alarm",
            headline=headline,
            champion=champion.name,
            tick=evidence.ticks,
            since=before.seen_until.isoformat(),
            until=after.seen_until.isoformat(),
            rows=rows,
            counted=kept,
            e_value=evidence.e_value,
            limit=LIMIT,
            channels=[ChannelRecord(name=name, e_value=channel.e_value) for name, channel in channels],
        )
    )


def named(manifest: DriftManifest) -> DriftManifest:
    """The manifest with the id that follows from what it says."""
    said = manifest.model_dump(mode="json", exclude={"artifact_id", "created_at"})
    return manifest.model_copy(update={"artifact_id": content_id("dr", said)})
