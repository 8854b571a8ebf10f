"""A task's newest index on this machine: which one it is, its local copy, its embedder.

Serving requests from it belongs in `serving/grounding.py`.
"""

from pathlib import Path

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.inference.embedder import fetch_embedder, load_embedder
from finetune_platform.lake import Lake
from finetune_platform.manifests import IndexManifest
from finetune_platform.progress import Report
from finetune_platform.retrieval.index import Index, load_index
from finetune_platform.retrieval.words import stopwords
from finetune_platform.task import Task

INDEX_ASSET = "retrieval_index"


def newest_index(task: Task, database: Database) -> str | None:
    """The id of the index that was recorded last; None where none ever was."""
    found = database.latest_artifact(task.name, INDEX_ASSET)
    return None if found is None else found.artifact_id


def open_index(task: Task, lake: Lake, database: Database, cache_dir: Path, report: Report) -> Index:
    """The newest index of a task that has a `retrieval` section, fetched and loaded.

    Raises:
        BadInput: It was never made, is not in the lake, or was made with another embedder than the task file's.
        Unreachable: The lake or the embedder's place does not answer.
    """
    index_id = newest_index(task, database)
    if index_id is None:
        raise BadInput(f"{task.name}/{INDEX_ASSET}: it has never been made", f"run `finetune index {task.name}`")
    return load_copy(task, index_id, lake, cache_dir, report)


def load_copy(task: Task, index_id: str, lake: Lake, cache_dir: Path, report: Report) -> Index:
    """One index of a task; arguments and errors are those of `open_index`."""
    assert task.retrieval is not None  # who asks for its index has looked
    path = IndexManifest.path_of(task.name, index_id)
    try:
        copy = lake.fetch(path, cache_dir / "retrieval" / task.name / index_id)
    except FileNotFoundError as error:
        raise BadInput(
            f"{lake.url_of(path)}: the index is recorded, but it is not there",
            f"check LAKE_URL, or make it again with `finetune index {task.name}`",
        ) from error
    model = fetch_embedder(task.retrieval.embedder, task.folder, lake, cache_dir, report)
    return load_index(copy, load_embedder(model), stopwords(task.retrieval.stopwords))
