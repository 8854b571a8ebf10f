"""A batch as a project of Label Studio: made once, with one task a row, however often it is asked for.

Whatever was killed midway goes on where it stopped, and what two senders made at the same time becomes one again.
Fetching what people said belongs in `pull.py`.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.labeling.batches import Batch, Reviewed
from finetune_platform.labeling.guidelines import html_of
from finetune_platform.labeling.label_studio.form import MODEL_VERSION, form_of, labeling_config
from finetune_platform.labeling.label_studio.projects import keep_project, known_project, note
from finetune_platform.labeling.label_studio.server import PAGE, Json, LabelStudioServer

PIECE = 50
"""Tasks of one request."""
MOST_TITLE = 50
LISTED = ("id", "meta", "overlap", "total_annotations", "cancelled_annotations")


class Asked(NamedTuple):
    """What the task file says to people: `labels` to choose from (none: they write), and `guidelines`."""

    labels: Sequence[str]
    guidelines: str


def push(
    database: Database, server: LabelStudioServer, batch: Batch, asked: Asked, until: float, *, whole: bool = False
) -> int | None:
    """Brings every open row of a batch into its project, wanted by as many people there as here.

    Args:
        until: Monotonic time after which no further request is begun.
        whole: Look at every task, even where as many are there as were brought.

    Returns:
        The project once everything is there; None where time ran out, and the next call goes on.

    Raises:
        BadInput: The project that the batch had is lost, or the server refuses something.
        Unreachable: The server does not answer.
    """
    known = known_project(database, batch.batch_id)
    if known is None:
        known = keep_project(database, batch.batch_id, _one_project(server, batch, asked))
    project = own_project(server, batch.batch_id, known.project_id)
    if project is None:
        raise BadInput(
            f'{batch.batch_id}: {server.url} has no project {known.project_id} with "{_marker(batch.batch_id)}" in its '
            "description",
            "bring it back, or ask for the open rows in another project: `finetune labels TASK --anew`",
        )
    if project["task_number"] == known.tasks and not whole:
        return known.project_id
    while (listed := _listed(server, known.project_id, until)) is not None:
        own = _of_batch(listed, batch.batch_id)
        if not _change(server, known.project_id, batch, asked, own, until):
            note(database, batch.batch_id, tasks=len(listed))
            return known.project_id
    return None


def own_project(server: LabelStudioServer, batch_id: str, project_id: int) -> Json | None:
    """A batch's project; None where it is gone or another's: the address may lead to another server than it did."""
    project = server.project(project_id)
    return project if project is not None and _marker(batch_id) in (project["description"] or "") else None


def closed_title(title: str) -> str:
    """What a project is called once its batch is closed."""
    return title if title.startswith("closed: ") else f"closed: {title}"[:MOST_TITLE]


def _one_project(server: LabelStudioServer, batch: Batch, asked: Asked) -> int:
    """The batch's project, made where there is none: the oldest one that names the batch.

    Whoever finds an older one beside the one they have just made takes their own back, so that two senders end with
    one project.
    """
    if (found := _oldest(server, batch.batch_id)) is not None:
        return found
    own = int(server.make_project(_new_project(batch, asked))["id"])
    found = _oldest(server, batch.batch_id)
    if found is not None and found != own:
        server.delete_project(own)
        return found
    return own


def _oldest(server: LabelStudioServer, batch_id: str) -> int | None:
    marked = (p for p in server.projects() if _marker(batch_id) in (p["description"] or ""))
    return next((int(project["id"]) for project in marked), None)


def _new_project(batch: Batch, asked: Asked) -> Json:
    return {
        "title": f"{batch.task} {batch.created_at:%Y-%m-%d}"[-MOST_TITLE:],
        "description": f"{batch.reason}. {_marker(batch.batch_id)} this line ties the project to its batch.",
        "label_config": labeling_config(asked.labels),
        "expert_instruction": html_of(asked.guidelines),
        "show_instruction": bool(asked.guidelines.strip()),
        "model_version": MODEL_VERSION,
        "show_collab_predictions": True,
        "maximum_annotations": 1,
        # What one could not say is asked of another person, as it is here.
        "skip_queue": "REQUEUE_FOR_OTHERS",
    }


def _marker(batch_id: str) -> str:
    return f"Batch {batch_id}:"


def _listed(server: LabelStudioServer, project_id: int, until: float) -> list[Json] | None:
    """All tasks of a project, the oldest first; None where time ran out."""
    found: list[Json] = []
    page = 1
    while time.monotonic() < until:
        tasks, total, _ = server.tasks(project_id, page, LISTED)
        found += tasks
        if page * PAGE >= total:
            return found
        page += 1
    return None


def _of_batch(tasks: Sequence[Json], batch_id: str) -> Mapping[int, list[Json]]:
    """A batch's tasks by the row's number; people may have added others of their own."""
    found: dict[int, list[Json]] = defaultdict(list)
    for task in tasks:
        if (task["meta"] or {}).get("batch_id") == batch_id:
            found[int(task["meta"]["number"])].append(task)
    return found


def _change(
    server: LabelStudioServer,
    project_id: int,
    batch: Batch,
    asked: Asked,
    own: Mapping[int, list[Json]],
    until: float,
) -> bool:
    """Makes what is missing, takes away what is doubled, corrects how many people are wanted; whether it did any."""
    missing = [row for row in batch.rows if row.outcome.state == "open" and row.number not in own]
    doubled = [task for tasks in own.values() for task in _to_delete(tasks)]
    other = [(task, row) for row in batch.rows for task in own.get(row.number, ()) if _asks_others(task, row)]
    for start in range(0, len(missing), PIECE):
        if time.monotonic() < until:
            piece = [form_of(batch.batch_id, row, asked.labels) for row in missing[start : start + PIECE]]
            server.import_tasks(project_id, piece)
    for task in doubled:
        if time.monotonic() < until:
            server.delete_task(int(task["id"]))
    for task, row in other:
        if time.monotonic() < until:
            _want(server, task, row)
    return bool(missing or doubled or other)


def _to_delete(tasks: Sequence[Json]) -> list[Json]:
    """The tasks of one row that are too many: all but one, as far as nobody worked on them."""
    worked_on = [task for task in tasks if _worked_on(task)]
    untouched = [task for task in tasks if not _worked_on(task)]
    return untouched if worked_on else untouched[1:]


def _worked_on(task: Json) -> bool:
    return bool(task["total_annotations"] or task["cancelled_annotations"])


def _asks_others(task: Json, row: Reviewed) -> bool:
    return int(task["overlap"]) != row.item.wanted


def _want(server: LabelStudioServer, task: Json, row: Reviewed) -> None:
    """Has a task given to as many people as its row wants.

    An import sets the project's number for all its tasks. Label Studio does not look again whether a task is done when
    the number changes, so it is told.
    """
    done = int(task["total_annotations"]) >= row.item.wanted
    changed = server.change_task(int(task["id"]), {"overlap": row.item.wanted, "is_labeled": done})
    if changed is not None and _asks_others(changed, row):
        raise BadInput(
            f"{server.url}: does not let task {task['id']} be given to {row.item.wanted} people",
            "use the community edition 1.23, or set labeling.overlap_share: 0",
        )
