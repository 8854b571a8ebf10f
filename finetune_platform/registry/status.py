"""Where a task stands: for each asset of the chain what there is, from when, and whether it still holds.

Judged from manifests and the task file alone, without Dagster and without computing anything: an artifact is stale
where a parent was made again, or where the settings it carries are no longer the task file's.
"""

from collections.abc import Mapping
from typing import Literal

from finetune_platform.database import Artifact, Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import (
    DatasetManifest,
    EvaluationManifest,
    Manifest,
    RawManifest,
    Record,
    TrainingManifest,
    Verdict,
)
from finetune_platform.registry.artifacts import CHAIN, artifact_path
from finetune_platform.rows import Split
from finetune_platform.task import Task

State = Literal["in place", "missing", "stale"]


class AssetStatus(Record):
    """One asset. `because` says why it is stale, one sentence a reason."""

    asset: str
    state: State
    artifact_id: str | None = None
    created_at: str | None = None
    url: str | None = None
    because: list[str] = []


class TaskStatus(Record):
    """A task's chain, who serves, and what the last evaluation said."""

    task: str
    assets: list[AssetStatus]
    champion: str | None
    candidate: str | None
    dataset_rows: dict[Split, int]
    verdict: Verdict | None
    headline: str | None

    @property
    def first_to_make(self) -> str | None:
        """The first asset that is not in place, None where all are."""
        return next((asset.asset for asset in self.assets if asset.state != "in place"), None)


def status(task: Task, lake: Lake, database: Database, sources: Mapping[str, str | None]) -> TaskStatus:
    """Looks up a task's chain.

    Args:
        sources: URIs of the files that the task's sources mean now; the SHA-256 of those whose hash is cheap to know.

    Raises:
        Unreachable: The lake or the database does not answer.
    """
    latest = {row.asset: row for row in database.artifacts_of(task.name)}
    manifests = {asset: _stored(lake, latest[asset]) for asset in CHAIN if asset in latest}
    assets: dict[str, AssetStatus] = {}
    for asset in CHAIN:
        manifest = manifests.get(asset)
        if manifest is None:
            assets[asset] = AssetStatus(asset=asset, state="missing")
            continue
        because = [*changed_parents(manifest, assets), *changed_settings(manifest, task, sources)]
        assets[asset] = AssetStatus(
            asset=asset,
            state="stale" if because else "in place",
            artifact_id=manifest.artifact_id,
            created_at=manifest.created_at,
            url=lake.url_of(manifest.path),
            because=because,
        )
    dataset, evaluation = manifests.get("curated_dataset"), manifests.get("evaluation_report")
    return TaskStatus(
        task=task.name,
        assets=list(assets.values()),
        champion=database.current(task.name, "champion"),
        candidate=database.current(task.name, "candidate"),
        dataset_rows={k: v.rows for k, v in dataset.splits.items()} if isinstance(dataset, DatasetManifest) else {},
        verdict=evaluation.verdict if isinstance(evaluation, EvaluationManifest) else None,
        headline=evaluation.headline if isinstance(evaluation, EvaluationManifest) else None,
    )


def _stored(lake: Lake, artifact: Artifact) -> Manifest | None:
    try:
        path = artifact_path(artifact.asset, artifact.task, artifact.artifact_id)
        return lake.manifest(CHAIN[artifact.asset], path)
    except FileNotFoundError:
        return None


def changed_parents(manifest: Manifest, upstream: Mapping[str, AssetStatus]) -> list[str]:
    """Parents that are not what `manifest` was made from, a sentence each."""
    reasons = []
    for parent, parent_id in manifest.parents.items():
        now = upstream.get(parent)
        if now is None:
            continue
        if now.artifact_id != parent_id:
            reasons.append(f"{parent} is now {now.artifact_id or 'missing'}, this was made from {parent_id}")
        elif now.state == "stale":
            reasons.append(f"{parent} is stale")
    return reasons


def changed_settings(manifest: Manifest, task: Task, sources: Mapping[str, str | None]) -> list[str]:
    """What the task file or the sources say now and `manifest` does not, a sentence each."""
    match manifest:
        case RawManifest():
            return _changed_sources(manifest, sources)
        case TrainingManifest():
            return _changed_training(manifest, task)
        case EvaluationManifest():
            return _changed_gates(manifest, task)
        case _:
            return []


def _changed_sources(manifest: RawManifest, sources: Mapping[str, str | None]) -> list[str]:
    read = {source.uri: source.sha256 for source in manifest.sources}
    gone = [f"{uri} is gone from the sources" for uri in read if uri not in sources]
    new = [f"{uri} is new among the sources" for uri in sources if uri not in read]
    changed = [f"{uri} changed" for uri, sha in sources.items() if sha is not None and read.get(uri, sha) != sha]
    return [*gone, *new, *changed]


def _changed_training(manifest: TrainingManifest, task: Task) -> list[str]:
    reasons = []
    stages = [stage.model_dump(mode="json") for stage in task.training.stages]
    if manifest.stages != stages:
        reasons.append("training.stages changed in the task file")
    if manifest.system_prompt != task.system_prompt:
        reasons.append("system_prompt changed in the task file")
    if task.base_model.name not in (None, manifest.base_model):
        reasons.append(f"base_model is now {task.base_model.name}, this was trained from {manifest.base_model}")
    return reasons


def _changed_gates(manifest: EvaluationManifest, task: Task) -> list[str]:
    judged = {(gate.metric, gate.slice, gate.tier, gate.versus) for gate in manifest.gates}
    wanted = {(gate.metric, gate.slice, gate.tier, gate.max_regression_vs) for gate in task.evaluation.gates}
    return ["evaluation.gates changed in the task file"] if judged != wanted else []
