"""Adapters as a person names them on the command line: whether one exists, is of the task, and fits what serves."""

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.registry.artifacts import find, read_manifest


def registered(database: Database, task: str, adapter_id: str) -> str:
    """The id, if it is that of a registered adapter of the task.

    Raises:
        BadInput: It is not; with the nearest id.
    """
    artifact = find(database, adapter_id)
    if artifact.task != task or artifact.asset != "registered_adapter":
        raise BadInput(f"{adapter_id}: is no registered adapter of {task}", f"`finetune status {task}`")
    return adapter_id


def fitting(database: Database, lake: Lake, task: str, adapter_id: str, beside: str | None) -> str:
    """The id, if its bundle is there and stands on the same base model as the adapter beside which it would answer.

    Args:
        beside: The champion's id; None: the base model answers, which has no manifest to compare with.

    Raises:
        BadInput: It is no adapter of the task, its bundle is not in the lake, or it is of another base model.
    """
    registered(database, task, adapter_id)
    mine = _base_model(lake, task, adapter_id)
    if beside is not None and (other := _base_model(lake, task, beside)) != mine:
        raise BadInput(
            f"{adapter_id}: its base model is {mine}, that of the champion {beside} is {other}",
            "one engine serves a task: name an adapter of the champion's base model, or train again",
        )
    return adapter_id


def _base_model(lake: Lake, task: str, adapter_id: str) -> str:
    manifest = read_manifest(lake, "registered_adapter", task, adapter_id)
    assert isinstance(manifest, AdapterManifest)
    return f"{manifest.base_model}@{manifest.base_model_revision}"
