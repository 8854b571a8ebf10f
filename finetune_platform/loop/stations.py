"""The stations of a task's cycle, each with its state, since when, and what it waits for.

What a station's own figures mean stands in its library package; how they look, where they are shown.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from finetune_platform.database import Database
from finetune_platform.drift import publication as drift_page
from finetune_platform.evaluation import publication as evaluation_page
from finetune_platform.labeling.batches import newest_batch, read_batch
from finetune_platform.labeling.figures import figures_of
from finetune_platform.labeling.readiness import readiness_of
from finetune_platform.labeling.retraining import retrainings_of
from finetune_platform.lake import Lake
from finetune_platform.manifests import EvaluationManifest, LabelsManifest, Manifest, Record
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.registry.artifacts import read_manifest
from finetune_platform.serving import rollouts
from finetune_platform.serving.routes import champion_since
from finetune_platform.task import Task

Name = Literal["champion", "drift", "experts", "labels", "retraining", "evaluation", "rollout"]
State = Literal["idle", "quiet", "alarm", "waiting", "running", "done", "failed"]
"""`idle`: nothing has come to it yet."""

BUSY: tuple[State, ...] = ("alarm", "waiting", "running", "failed")

MARKS: Mapping[State, str] = {
    "idle": "·",
    "quiet": "✓",
    "done": "✓",
    "waiting": "…",
    "running": "▶",
    "alarm": "!",
    "failed": "✗",
}
"""How a state is told without colour, wherever it is shown."""


class Station(Record):
    """One station.

    Attributes:
        since: When it came to be so; None where it is idle.
        what: In one sentence.
        waits_for: What has to happen next; "" for nothing.
        report: Where in the lake the page lies that tells it in full; "" where there is none.
    """

    name: Name
    state: State
    since: str | None = None
    what: str = ""
    waits_for: str = ""
    report: str = ""


def stations_of(task: Task, lake: Lake, database: Database) -> list[Station]:
    """Every station of a task's cycle as of now, in the order of the flow."""
    drift = _drift(task, lake, database)
    experts = _experts(task, database)
    return [
        _champion(task, database),
        drift,
        experts,
        _labels(task, lake, database),
        _retraining(task, database, experts),
        _evaluation(task, lake, database),
        _rollout(task, database),
    ]


def here(stations: list[Station]) -> Station:
    """Where the cycle stands: the last busy station, else the champion."""
    return next((station for station in reversed(stations) if station.state in BUSY), stations[0])


def _champion(task: Task, database: Database) -> Station:
    name, since = champion_since(database, task.name)
    if since.timestamp() == 0:
        return Station(name="champion", state="idle", what="the base model answers; no adapter has been routed")
    return Station(name="champion", state="done", since=_iso(since), what=f"{name} answers")


def _drift(task: Task, lake: Lake, database: Database) -> Station:
    report = _latest(task, lake, database, "drift_report")
    if not isinstance(report, DriftManifest):
        return Station(name="drift", state="idle", waits_for="a first look at the traffic")
    champion, since = champion_since(database, task.name)
    if report.champion != champion:
        what = f"the last look was at {report.champion}"
        return Station(name="drift", state="idle", since=_iso(since), what=what, waits_for=f"traffic of {champion}")
    state: State = {"alarm": "alarm", "gathering": "waiting"}.get(report.status, "quiet")  # type: ignore[assignment]
    waits = "more traffic" if state == "waiting" else ""
    return Station(
        name="drift",
        state=state,
        since=report.created_at,
        what=report.headline,
        waits_for=waits,
        report=f"{report.path}/{drift_page.PAGE_NAME}",
    )


def _experts(task: Task, database: Database) -> Station:
    batch_id = newest_batch(database, task.name)
    if batch_id is None:
        return Station(name="experts", state="idle")
    batch = read_batch(database, batch_id)
    if not batch.is_open:
        closed = _iso(batch.closed_at or batch.created_at)
        return Station(
            name="experts", state="done", since=closed, what=f"{batch_id}: {len(batch.rows):,} rows answered"
        )
    ready = readiness_of(batch, figures_of(batch, 0.0), task.labeling.min_agreement)
    left = batch.states["open"] + batch.states["disputed"]
    waits = {"waiting": f"people: {left:,} rows", "low_agreement": "people who agree more"}.get(ready.state, "")
    return Station(
        name="experts",
        state="waiting" if waits else "done",
        since=_iso(batch.created_at),
        what=f"{batch_id}: {ready.reason}",
        waits_for=waits,
    )


def _labels(task: Task, lake: Lake, database: Database) -> Station:
    labels = _latest(task, lake, database, "expert_labels")
    if not isinstance(labels, LabelsManifest):
        return Station(name="labels", state="idle")
    told = ", ".join(f"{count:,} {kind}" for kind, count in labels.by_source.items() if count)
    return Station(name="labels", state="done", since=labels.created_at, what=f"{labels.artifact_id}: {told}")


def _retraining(task: Task, database: Database, experts: Station) -> Station:
    past = retrainings_of(database, task.name)
    if past and past[-1].state == "started":
        return Station(
            name="retraining", state="running", since=_iso(past[-1].started_at), what=f"on {past[-1].batch_id}"
        )
    if experts.state == "done" and not any(one.batch_id == newest_batch(database, task.name) for one in past):
        waits = "cooldown, budget or the next tick" if task.retraining.automatic else f"`finetune retrain {task.name}`"
        return Station(name="retraining", state="waiting", since=experts.since, waits_for=waits)
    if not past:
        return Station(name="retraining", state="idle")
    last = past[-1]
    return Station(name="retraining", state=_ended(last.state), since=_iso(last.ended_at), what=last.note)


def _evaluation(task: Task, lake: Lake, database: Database) -> Station:
    report = _latest(task, lake, database, "evaluation_report")
    if not isinstance(report, EvaluationManifest):
        return Station(name="evaluation", state="idle")
    state: State = "failed" if report.blocking else "done"
    return Station(
        name="evaluation",
        state=state,
        since=report.created_at,
        what=report.headline,
        waits_for="a person: hard gates kept the adapter out" if report.blocking else "",
        report=f"{report.path}/{evaluation_page.PAGE_NAME}",
    )


def _rollout(task: Task, database: Database) -> Station:
    with database.reading() as session:
        row = rollouts.latest(session, task.name)
        if row is None:
            return Station(name="rollout", state="idle")
        progress = rollouts.memory_of(row).progress
    if progress.active:
        state: State = "waiting" if progress.state == "held" else "running"
    else:
        state = "failed" if row.state == "rolled_back" else "done"
    waits = "a person: held" if progress.state == "held" else ("traffic" if progress.active else "")
    what = f"{row.adapter_id}: {row.message}"
    return Station(name="rollout", state=state, since=_iso(row.updated_at), what=what, waits_for=waits)


def _latest(task: Task, lake: Lake, database: Database, asset: str) -> Manifest | None:
    made = database.latest_artifact(task.name, asset)
    return None if made is None else read_manifest(lake, asset, task.name, made.artifact_id)


def _ended(state: str) -> State:
    return "done" if state == "done" else "failed"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")
