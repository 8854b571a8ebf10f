"""What people said in Label Studio, fetched: each annotation once, edits over what they replace, deleted ones undone.

Only tasks that changed since the last time are asked for, and all that is found in them is compared with what is
stored: a page fetched twice changes nothing. What follows from annotations stays `batches.py`'s and `answering.py`'s.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import select

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.labeling.answering import Annotation, annotate, withdraw
from finetune_platform.labeling.batches import Batch, Reviewed
from finetune_platform.labeling.label_studio.form import said_in
from finetune_platform.labeling.label_studio.projects import Place, known_project, note
from finetune_platform.labeling.label_studio.server import Json, LabelStudioServer
from finetune_platform.labeling.tables import AnnotationRow

MOST_NAME = 128
MARGIN = timedelta(seconds=60)
"""A change is dated before it is stored: what happened in the server's last minute is looked at again."""


class Pulled(NamedTuple):
    """What came of a fetch. `refused` annotations stay in Label Studio alone, each with the reason.

    Attributes:
        whole: Everything that had changed was looked at; if not, time ran out, and the next call goes on.
    """

    new: int = 0
    changed: int = 0
    withdrawn: int = 0
    refused: tuple[str, ...] = ()
    whole: bool = False

    def __add__(self, other: "Pulled") -> "Pulled":  # type: ignore[override]
        return Pulled(
            self.new + other.new,
            self.changed + other.changed,
            self.withdrawn + other.withdrawn,
            (*self.refused, *other.refused),
            other.whole,
        )


def pull(
    database: Database,
    server: LabelStudioServer,
    batch: Batch,
    project_id: int,
    labels: Sequence[str],
    until: float,
    *,
    whole: bool = False,
) -> Pulled:
    """Fetches what people said of a batch in its project.

    Args:
        labels: The only answers there are; any where there are none.
        until: Monotonic time after which no further request is begun.
        whole: Read everything again, not only what changed.

    Raises:
        BadInput: The server refuses.
        Unreachable: The server does not answer.
    """
    known = known_project(database, batch.batch_id)
    place = Place() if whole or known is None else known.place
    rows = {row.number: row for row in batch.rows}
    people: dict[int, str] = {}
    pulled = Pulled()
    while time.monotonic() < until:
        tasks, total, at = server.changed_tasks(project_id, place.changes_since, place.read_to)
        people = _with_all(server, project_id, people, tasks)
        for task in tasks:
            number = (task["meta"] or {}).get("number")
            if (task["meta"] or {}).get("batch_id") == batch.batch_id and number in rows:
                pulled += take(database, batch.batch_id, rows[number], labels, task, people)
        more = total > len(tasks)
        place = following(place, [int(task["id"]) for task in tasks] if more else None, at)
        note(database, batch.batch_id, **place._asdict())
        if not more:
            return pulled._replace(whole=True)
    return pulled


def following(place: Place, tasks: Sequence[int] | None, at: datetime) -> Place:
    """Where to read on.

    Tasks are read by their ids, so none is passed over because others change meanwhile. Whatever changes behind the
    reader is what the next reading looks for: it begins where this one began.

    Args:
        tasks: Ids of what was read where more is to come; None where it was the last.
        at: The server's clock when it answered.
    """
    began = place.reading_began or at
    if tasks is None:
        return Place(began - MARGIN)
    return Place(place.changes_since, max(tasks), began)


def take(
    database: Database,
    batch_id: str,
    row: Reviewed,
    labels: Sequence[str],
    task: Mapping[str, Any],
    people: Mapping[int, str],
) -> Pulled:
    """Keeps what people said of one row in one task.

    Args:
        task: As Label Studio's API has it, with its annotations.
        people: E-mail addresses of its annotators.
    """
    external = f"{batch_id}/{task['id']}/"
    stored = _stored(database, batch_id, row.number)
    present = {f"{external}{annotation['id']}": annotation for annotation in task["annotations"]}
    newest: dict[str, Annotation] = {}
    for external_id, annotation in sorted(present.items(), key=lambda entry: _age(entry[1])):
        # An account that was deleted leaves its annotations to nobody; what is kept of them stays whose it was.
        if annotation["completed_by"] is not None:
            said = said_in(annotation, row.item.shown_suggestion is None, external_id)
            newest[_reviewer(annotation, people)] = said
    gone = [
        reviewer
        for reviewer, said in stored.items()
        if (said.external_id or "").startswith(external) and reviewer not in newest and said.external_id not in present
    ]
    new = changed = withdrawn = 0
    refused = []
    for reviewer, said in newest.items():
        if stored.get(reviewer) == said:
            continue
        try:
            annotate(database, batch_id, row.number, reviewer, said, labels)
            new, changed = new + (reviewer not in stored), changed + (reviewer in stored)
        except BadInput as error:
            refused.append(_refusal(error, batch_id, row.number, reviewer, said))
    for reviewer in gone:
        try:
            withdraw(database, batch_id, row.number, reviewer)
            withdrawn += 1
        except BadInput as error:
            refused.append(_refusal(error, batch_id, row.number, reviewer, stored[reviewer]))
    return Pulled(new, changed, withdrawn, tuple(refused))


def _stored(database: Database, batch_id: str, number: int) -> dict[str, Annotation]:
    """What is kept of a row, as it would be fetched, by reviewer."""
    query = select(AnnotationRow).where(
        AnnotationRow.batch_id == batch_id, AnnotationRow.number == number, AnnotationRow.source == "label_studio"
    )
    with database.reading() as session:
        return {
            row.reviewer: Annotation(
                row.decision, row.answer, row.reason, row.rating, row.seconds, row.source, row.external_id
            )
            for row in session.scalars(query)
        }


def _with_all(
    server: LabelStudioServer, project_id: int, people: dict[int, str], tasks: Sequence[Json]
) -> dict[int, str]:
    """Annotators by id, asked for again where a task has an annotation of somebody new."""
    authors = {annotation["completed_by"] for task in tasks for annotation in task["annotations"]} - {None}
    return people if authors <= people.keys() else server.annotators(project_id)


def _reviewer(annotation: Mapping[str, Any], people: Mapping[int, str]) -> str:
    """Whose an annotation is; somebody who has left Label Studio is known by number."""
    author = annotation["completed_by"]
    return f"label_studio:{people.get(author, f'user {author}')}"[:MOST_NAME]


def _age(annotation: Mapping[str, Any]) -> tuple[datetime, int]:
    return datetime.fromisoformat(annotation["updated_at"]), int(annotation["id"])


def _refusal(error: BadInput, batch_id: str, number: int, reviewer: str, said: Annotation) -> str:
    place = f"{batch_id} row {number}"
    problem = error.problem.removeprefix(f"{place}: ")
    what = f'"{said.answer}"' if said.decision == "answer" else f"{said.decision}: {said.reason}"
    return f"{place}, {reviewer}: {what} is not taken over: {problem}"
