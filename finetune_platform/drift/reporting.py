"""A look's finding made into a report: the looks before it, and on an alarm what changed."""

from datetime import datetime

from finetune_platform.database import Database
from finetune_platform.drift.explanation import Since, explain, growth_began
from finetune_platform.drift.kept_reference import KeptReference, read_reference
from finetune_platform.drift.monitor import Traffic
from finetune_platform.drift.report import Changes, DriftReport, Look, ReferenceOf
from finetune_platform.drift.sample import sampled
from finetune_platform.drift.state import ticks_of
from finetune_platform.drift.tables import DriftTick
from finetune_platform.lake import Lake
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.progress import Report
from finetune_platform.repeats import counted
from finetune_platform.task import Task

MOST_EXPLAINED = 3000
"""Rows that an alarm is explained with, drawn at random from those since the evidence began to grow."""


def report_on(
    task: Task, traffic: Traffic, found: DriftManifest, lake: Lake, database: Database, report: Report
) -> DriftReport:
    """The report of a look.

    Args:
        task: Whose traffic it is.
        traffic: Read again on an alarm: the look itself saw the newest rows only.
        found: What `look` gave.
        lake: Where the reference is kept.
        database: Where the looks are kept.
        report: Hears of progress.
    """
    reference_id = found.parents.get("drift_reference")
    if reference_id is None:
        return DriftReport(found=found, wanted_rows=task.drift.reference_rows, reference=None, history=[], changes=None)
    ticks = [tick for tick in ticks_of(database, task.name, reference_id) if tick.number <= found.tick]
    kept = read_reference(lake, task.name, reference_id)
    return DriftReport(
        found=found,
        wanted_rows=task.drift.reference_rows,
        reference=ReferenceOf(
            artifact_id=reference_id, rows=kept.manifest.rows, first=kept.manifest.first, last=kept.manifest.last
        ),
        history=[_look(tick) for tick in ticks],
        changes=_changes(traffic, found, kept, ticks, report) if found.status == "alarm" else None,
    )


def _changes(
    traffic: Traffic, found: DriftManifest, kept: KeptReference, ticks: list[DriftTick], report: Report
) -> Changes | None:
    began, until = growth_began(ticks), datetime.fromisoformat(found.until)
    rows, logged, _ = sampled(traffic.read(began.since, until), MOST_EXPLAINED, found.tick)
    if not rows:
        return None
    report(f"{len(rows):,} of {logged:,} rows since {began.since:%Y-%m-%d %H:%M} UTC are compared with the reference")
    vectors = traffic.load_embedder().embed([row.question for row in rows])
    once = counted(rows, vectors)
    since = Since(began.since.isoformat(), found.until, logged, [rows[i] for i in once], vectors[once])
    return explain(kept, {channel.name: channel.e_value for channel in found.channels}, since)


def _look(tick: DriftTick) -> Look:
    return Look(
        number=tick.number,
        since=tick.since.isoformat(),
        until=tick.until.isoformat(),
        rows=tick.rows,
        counted=tick.counted,
        e_value=tick.e_value,
        channels=tick.channels,
        alarm=tick.alarm,
    )
