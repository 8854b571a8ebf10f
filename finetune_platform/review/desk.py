"""One person's way through the rows of a task: the next one, back to their own, saying something, going on.

What is stored belongs in `labeling/`; what a browser shows, in `rows_page.py`.
"""

import statistics
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.labeling.answering import Annotation, annotate, draft_of, keep_draft, next_row
from finetune_platform.labeling.batches import Batch, Reviewed, newest_open_batch, read_batch
from finetune_platform.labeling.items import Said, comparable
from finetune_platform.task import Task

Way = Literal["earlier", "later"]

CLOSED = "This batch is closed: its labels are in use."


class Opened(NamedTuple):
    """A row that somebody has before them.

    Attributes:
        said: What they said of it before.
        draft: What they typed and have not said.
        locked: Why nothing can be said of it any more; "" where it can.
    """

    batch: Batch
    row: Reviewed
    said: Said | None
    draft: str | None
    locked: str


class Progress(NamedTuple):
    """How far a batch and one person have come.

    Attributes:
        rows: In the batch.
        done: Settled or excluded.
        disputed: Waiting for a decision.
        own: Answered, skipped or flagged by this person.
        left: Open rows that they have said nothing of.
        pace_s: Median seconds that a row took them; None before the first.
    """

    rows: int
    done: int
    disputed: int
    own: int
    left: int
    pace_s: float | None


class Desk:
    """Where one person works on one task.

    Args:
        database: Where the rows are.
        task: Which task.
        reviewer: Who, as records name them.
    """

    def __init__(self, database: Database, task: Task, reviewer: str) -> None:
        self._database, self._task, self._reviewer = database, task, reviewer
        self._lease = timedelta(minutes=task.labeling.lease_minutes)

    def newest(self) -> Batch | None:
        """The batch that they work on; None where none is open."""
        batch_id = newest_open_batch(self._database, self._task.name)
        return read_batch(self._database, batch_id) if batch_id else None

    def next(self) -> Opened | None:
        """The row that wants this person next; None where none does."""
        batch_id = newest_open_batch(self._database, self._task.name)
        given = next_row(self._database, batch_id, self._reviewer, self._lease) if batch_id else None
        if batch_id is None or given is None:
            return None
        return Opened(read_batch(self._database, batch_id), given.row, None, given.draft, "")

    def open(self, batch_id: str, number: int) -> Opened | None:
        """A row of which they said something; None where there is no such row.

        Raises:
            BadInput: No such batch.
        """
        batch = read_batch(self._database, batch_id)
        row = next((row for row in batch.rows if row.number == number), None)
        said = row and own_word(row, self._reviewer)
        if row is None or said is None or batch.task != self._task.name:
            return None
        return Opened(batch, row, said, draft_of(self._database, batch_id, number, self._reviewer), _locked(batch, row))

    def go(self, here: Opened | None, way: Way) -> Opened | None:
        """From a row (None: from the end) to the one before or after it; after their last comes the next that waits."""
        batch_id = here.batch.batch_id if here else newest_open_batch(self._database, self._task.name)
        if batch_id is None:
            return None
        number = neighbour(read_batch(self._database, batch_id).rows, self._reviewer, here and here.row.number, way)
        if number is None:
            return here if way == "earlier" and here else self.next()
        return self.open(batch_id, number)

    def keep(self, opened: Opened, text: str) -> None:
        """Keeps what they have typed.

        Raises:
            BadInput: It is too long.
        """
        number = opened.row.number
        keep_draft(self._database, opened.batch.batch_id, number, self._reviewer, text, self._lease)

    def say(self, opened: Opened, said: Annotation) -> str:
        """Keeps what they say of the row before them.

        Returns:
            What they should know of it; "" for nothing.

        Raises:
            BadInput: It cannot be kept; what is said is not whole, the row was decided or its batch closed meanwhile.
            SaidElsewhere: They said something else of it meanwhile.
        """
        batch_id, number = opened.batch.batch_id, opened.row.number
        now = next((row for row in read_batch(self._database, batch_id).rows if row.number == number), opened.row)
        earlier = own_word(now, self._reviewer)
        if earlier is not None and earlier != opened.said and not _same(earlier, said):
            raise SaidElsewhere(earlier)
        annotate(self._database, batch_id, number, self._reviewer, said, self._task.labeling.labels)
        if earlier is None and said.decision == "answer" and now.outcome.state == "settled":
            return "Others had answered that row while you had it open; your answer counts as one more."
        return ""

    def progress(self, batch: Batch) -> Progress:
        """How far the batch and this person are."""
        own = [said for row in batch.rows if (said := own_word(row, self._reviewer)) is not None]
        seconds = [said.seconds for said in own if said.seconds > 0]
        return Progress(
            rows=len(batch.rows),
            done=batch.states["settled"] + batch.states["excluded"],
            disputed=batch.states["disputed"],
            own=len(own),
            left=sum(row.outcome.state == "open" and own_word(row, self._reviewer) is None for row in batch.rows),
            pace_s=statistics.median(seconds) if seconds else None,
        )


class SaidElsewhere(BadInput):
    """The same person said something else of the row meanwhile, in another tab; `said` is that."""

    def __init__(self, said: Said) -> None:
        self.said = said
        what = f'"{said.answer}"' if said.decision == "answer" else f"a {said.decision}: {said.reason}"
        super().__init__(
            f"you said something else of this row meanwhile, in another tab ({what})", "save again to replace it"
        )


def own_word(row: Reviewed, reviewer: str) -> Said | None:
    """What somebody said of a row as a reviewer."""
    return next((said for said in row.said if said.reviewer == reviewer and not said.adjudication), None)


def neighbour(rows: Sequence[Reviewed], reviewer: str, number: int | None, way: Way) -> int | None:
    """The row of their own before or after `number`; None where there is none.

    From a row that they have said nothing of, the one before is what they said last.
    """
    own = {row.number: said for row in rows if (said := own_word(row, reviewer)) is not None}
    if number not in own:
        return max(own, key=lambda n: own[n].at) if own and way == "earlier" else None
    if way == "earlier":
        return max((n for n in own if n < number), default=None)
    return min((n for n in own if n > number), default=None)


def _same(earlier: Said, said: Annotation) -> bool:
    return earlier.decision == said.decision and comparable(earlier.answer) == comparable(said.answer)


def _locked(batch: Batch, row: Reviewed) -> str:
    if not batch.is_open:
        return CLOSED
    if (decision := next((said for said in row.said if said.adjudication), None)) is None:
        return ""
    why = f" ({decision.reason})" if decision.reason else ""
    if decision.decision == "answer":
        return f"It was decided{why}: {decision.answer}"
    return f"It was excluded{why}."
