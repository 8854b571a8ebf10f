"""What an asset was last made with: the code, the settings and the parents, noted in the database.

An artifact's manifest cannot say it: the same content made again with other settings, or from another parent, keeps
its id and the manifest it has. The note is overwritten at every making; where it is lost, the asset counts as stale
and is made again, which finds the same content.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_platform.database import Database
from finetune_platform.identity import content_id
from finetune_platform.manifests import Manifest, Record
from finetune_platform.registry.artifacts import KINDS
from finetune_platform.task import Task

DECIDED_BY: dict[str, tuple[str, ...]] = {
    "raw_examples": ("sources", "curation.strata", "curation.max_line_mb", "curation.max_rejected_share"),
    "curated_dataset": (
        "curation.max_tokens",
        "curation.min_rows",
        "curation.validation_share",
        "curation.test_share",
        "curation.seed",
        "system_prompt",
        "base_model",
    ),
    "trained_adapter": ("training", "system_prompt", "base_model"),
    "evaluation_report": ("evaluation", "baseline_prompt", "cost", "system_prompt", "base_model"),
    "registered_adapter": ("evaluation.max_new_tokens", "system_prompt", "base_model"),
}
"""The keys of the task file that each asset follows from."""


class Making(Record):
    """One making of an asset. `settings` holds a hash a key of the task file, `parents` what was read."""

    artifact_id: str
    code_version: str
    settings: dict[str, str]
    parents: dict[str, str]


def note_making(
    database: Database, task: Task, asset: str, made: Manifest, code_version: str, made_from: Sequence[Manifest] = ()
) -> None:
    """Notes that `asset` was made just now.

    Args:
        task: As it was read for this making.
        made: The manifest, which may be that of an earlier making with the same content.
        code_version: Of the code that made it.
        made_from: The manifests of the assets that were read.
    """
    parents = {asset_of(parent): parent.artifact_id for parent in made_from}
    note = Making(
        artifact_id=made.artifact_id, code_version=code_version, settings=settings_of(task, asset), parents=parents
    )
    database.note_making(task.name, asset, note.model_dump())


def last_making(database: Database, task: str, asset: str) -> Making | None:
    """The note of an asset's last making, None where there is none."""
    note = database.last_making(task, asset)
    return None if note is None else Making.model_validate(note)


def settings_of(task: Task, asset: str) -> dict[str, str]:
    """A hash of each key of the task file that decides an asset."""
    values = task.model_dump(mode="json")
    return {key: content_id("s", _at(values, key)) for key in DECIDED_BY[asset]}


def asset_of(manifest: Manifest) -> str:
    """The asset that makes manifests of this kind."""
    return next(asset for asset, kind in KINDS.items() if isinstance(manifest, kind))


def _at(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found
