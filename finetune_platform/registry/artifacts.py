"""The chain of assets and how to find what each has made: the `artifacts` table and the manifests in the lake.

Reading one artifact and its neighbours belongs here; walking a whole lineage belongs in `lineage.py` and `trace.py`.
"""

import difflib

from sqlalchemy import select

from finetune_platform.database import Artifact, Database
from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import (
    AdapterManifest,
    BatchManifest,
    DatasetManifest,
    EvaluationManifest,
    IndexManifest,
    LabelsManifest,
    Manifest,
    ProposalManifest,
    RawManifest,
    ReferenceManifest,
)
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.manifests_training import TrainingManifest

CHAIN: dict[str, type[Manifest]] = {
    "raw_examples": RawManifest,
    "curated_dataset": DatasetManifest,
    "trained_adapter": TrainingManifest,
    "evaluation_report": EvaluationManifest,
    "registered_adapter": AdapterManifest,
}
"""Assets in the order of the flow, each with the manifest of what it makes."""

KINDS: dict[str, type[Manifest]] = {
    **CHAIN,
    "retrieval_index": IndexManifest,
    "drift_reference": ReferenceManifest,
    "drift_report": DriftManifest,
    "base_model_proposal": ProposalManifest,
    "review_batch": BatchManifest,
    "expert_labels": LabelsManifest,
}
"""Every asset that makes an artifact, those beside the chain too."""


def artifact_path(asset: str, task: str, artifact_id: str) -> str:
    """Folder inside the lake of one artifact."""
    return KINDS[asset].path_of(task, artifact_id)


def read_manifest(lake: Lake, asset: str, task: str, artifact_id: str) -> Manifest:
    """The manifest of one artifact.

    Raises:
        BadInput: The lake does not hold it.
    """
    path = artifact_path(asset, task, artifact_id)
    try:
        return lake.manifest(KINDS[asset], path)
    except FileNotFoundError as error:
        raise BadInput(
            f"{lake.url_of(path)}: {asset} {artifact_id} is recorded, but its manifest is not there",
            f"check LAKE_URL, or make it again with `finetune run {task} --from {asset}`",
        ) from error


def recorded(database: Database) -> list[Artifact]:
    """Every artifact of every task once, by its latest record, in the order of making."""
    with database.session() as session:
        rows = list(session.scalars(select(Artifact).order_by(Artifact.id)))
    return sorted({(row.task, row.artifact_id): row for row in rows}.values(), key=lambda row: row.id)


def find(database: Database, artifact_id: str) -> Artifact:
    """The latest record of an artifact.

    Raises:
        BadInput: Nothing of that id was ever recorded; suggests the nearest id.
    """
    if (row := database.artifact(artifact_id)) is not None:
        return row
    known = [row.artifact_id for row in recorded(database)]
    near = difflib.get_close_matches(artifact_id, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise BadInput(f"{artifact_id}: no artifact has this id{hint}", "`finetune status` shows the latest ids")
