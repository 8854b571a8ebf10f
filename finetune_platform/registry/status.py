"""Where a task stands: for each asset of the chain what there is, from when, and whether it still holds.

Judged without Dagster and without making anything: an asset is stale where the code, the settings or the parents of
its last making are not today's, or where its source files are other ones.
"""

from collections.abc import Mapping
from typing import Literal

from finetune_platform.database import Artifact, Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest, EvaluationManifest, Manifest, RawManifest, Record, Verdict
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.registry.artifacts import CHAIN, KINDS, artifact_path
from finetune_platform.registry.making import Making, last_making, settings_of
from finetune_platform.rows import Split
from finetune_platform.task import Task

LABELS = "expert_labels"

State = Literal["in place", "missing", "stale"]


class AssetStatus(Record):
    """One asset. `because` says why it is stale, one sentence a reason."""

    asset: str
    state: State
    artifact_id: str | None = None
    created_at: str | None = None
    url: str | None = None
    because: list[str] = []


class DriftStatus(Record):
    """What the last look at a task's traffic found."""

    status: str
    headline: str
    until: str


class TaskStatus(Record):
    """A task's chain, who serves, what the last evaluation said and what the last look at the traffic found."""

    task: str
    assets: list[AssetStatus]
    champion: str | None
    candidate: str | None
    dataset_rows: dict[Split, int]
    verdict: Verdict | None
    headline: str | None
    drift: DriftStatus | None

    @property
    def first_to_make(self) -> str | None:
        """The first asset that is not in place, None where all are."""
        return next((asset.asset for asset in self.assets if asset.state != "in place"), None)


def status(
    task: Task,
    lake: Lake,
    database: Database,
    code_versions: Mapping[str, str],
    sources: Mapping[str, str | None],
) -> TaskStatus:
    """Looks up a task's chain.

    Args:
        code_versions: Of the code that would make each asset now.
        sources: URIs of the files that the task's sources mean now; the SHA-256 of those whose hash is cheap to know.

    Raises:
        Unreachable: The lake or the database does not answer.
    """
    latest = {row.asset: row for row in database.artifacts_of(task.name)}
    manifests = {asset: _stored(lake, latest[asset]) for asset in CHAIN if asset in latest}
    assets = _labels(latest.get(LABELS))
    for asset in CHAIN:
        manifest = manifests.get(asset)
        if manifest is None:
            assets[asset] = AssetStatus(asset=asset, state="missing")
            continue
        assets[asset] = _asset(
            asset, manifest, assets, task, lake, last_making(database, task.name, asset), code_versions[asset], sources
        )
    dataset, evaluation = manifests.get("curated_dataset"), manifests.get("evaluation_report")
    return TaskStatus(
        task=task.name,
        assets=[assets[asset] for asset in CHAIN],
        champion=database.current(task.name, "champion"),
        candidate=database.current(task.name, "candidate"),
        dataset_rows={k: v.rows for k, v in dataset.splits.items()} if isinstance(dataset, DatasetManifest) else {},
        verdict=evaluation.verdict if isinstance(evaluation, EvaluationManifest) else None,
        headline=evaluation.headline if isinstance(evaluation, EvaluationManifest) else None,
        drift=_drift(lake, latest.get("drift_report")),
    )


def _drift(lake: Lake, latest: Artifact | None) -> DriftStatus | None:
    found = _stored(lake, latest) if latest else None
    if not isinstance(found, DriftManifest):
        return None
    return DriftStatus(status=found.status, headline=found.headline, until=found.until)


def _labels(latest: Artifact | None) -> dict[str, AssetStatus]:
    """What people decided, as an input of the chain; they are never stale, only other ones."""
    return {LABELS: AssetStatus(asset=LABELS, state="in place", artifact_id=latest.artifact_id if latest else None)}


def _asset(
    asset: str,
    manifest: Manifest,
    upstream: Mapping[str, AssetStatus],
    task: Task,
    lake: Lake,
    making: Making | None,
    code_version: str,
    sources: Mapping[str, str | None],
) -> AssetStatus:
    if making is None or making.artifact_id != manifest.artifact_id:
        because = ["how it was made is not on record"]
    else:
        because = [*_changed_code(making, code_version), *_changed_settings(making, task, asset)]
        because += [*_changed_parents(making, upstream)]
    if isinstance(manifest, RawManifest):
        because += _new_labels(making, upstream[LABELS].artifact_id)
        because += _changed_sources(manifest, sources)
    return AssetStatus(
        asset=asset,
        state="stale" if because else "in place",
        artifact_id=manifest.artifact_id,
        created_at=manifest.created_at,
        url=lake.url_of(manifest.path),
        because=because,
    )


def _changed_code(making: Making, now: str) -> list[str]:
    return [] if making.code_version == now else [f"made by version {making.code_version} of its code, now {now}"]


def _changed_settings(making: Making, task: Task, asset: str) -> list[str]:
    now = settings_of(task, asset)
    return [f"{key} changed in the task file" for key, value in now.items() if making.settings.get(key) != value]


def _changed_parents(making: Making, upstream: Mapping[str, AssetStatus]) -> list[str]:
    reasons = []
    for parent, parent_id in making.parents.items():
        now = upstream[parent]
        if now.artifact_id != parent_id:
            reasons.append(f"{parent} is now {now.artifact_id or 'missing'}, this was made from {parent_id}")
        elif now.state == "stale":
            reasons.append(f"{parent} is stale")
    return reasons


def _new_labels(making: Making | None, now: str | None) -> list[str]:
    known = making is not None and LABELS in making.parents
    return [f"{LABELS} {now} are new"] if now is not None and making is not None and not known else []


def _changed_sources(manifest: RawManifest, sources: Mapping[str, str | None]) -> list[str]:
    read = {source.uri: source.sha256 for source in manifest.sources}
    gone = [f"{uri} is gone from the sources" for uri in read if uri not in sources]
    new = [f"{uri} is new among the sources" for uri in sources if uri not in read]
    changed = [f"{uri} changed" for uri, sha in sources.items() if sha is not None and read.get(uri, sha) != sha]
    return [*gone, *new, *changed]


def _stored(lake: Lake, artifact: Artifact) -> Manifest | None:
    try:
        path = artifact_path(artifact.asset, artifact.task, artifact.artifact_id)
        return lake.manifest(KINDS[artifact.asset], path)
    except FileNotFoundError:
        return None
