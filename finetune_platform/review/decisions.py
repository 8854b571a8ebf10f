"""What a lead decides: one disputed row after the other, with what people said of it and without who said it.

What is stored belongs in `labeling/`; what a browser shows, in `decisions_page.py`.
"""

from typing import NamedTuple

from finetune_platform.database import Database
from finetune_platform.identity import content_id
from finetune_platform.labeling.answering import Annotation, adjudicate
from finetune_platform.labeling.batches import Batch, Reviewed, newest_open_batch, read_batch
from finetune_platform.labeling.items import Said
from finetune_platform.review.desk import SaidElsewhere, Way
from finetune_platform.task import Task

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Side(NamedTuple):
    """What one person said, under a letter."""

    letter: str
    said: Said


class Dispute(NamedTuple):
    """A row to decide.

    Attributes:
        sides: What people said of it, in an order that tells nothing of them.
        decided: This lead's own decision, where they have made it.
    """

    batch: Batch
    row: Reviewed
    sides: tuple[Side, ...]
    decided: Said | None


class Docket(NamedTuple):
    """The rows of a batch that one lead may decide, has decided, and must leave to another (their own answers)."""

    batch: Batch
    waiting: tuple[int, ...]
    decided: tuple[int, ...]
    others: int


class Decisions:
    """Where one lead decides on one task.

    Args:
        database: Where the rows are.
        task: Which task.
        lead: Who, as records name them.
    """

    def __init__(self, database: Database, task: Task, lead: str) -> None:
        self._database, self._task, self._lead = database, task, lead

    def docket(self) -> Docket | None:
        """What there is to decide; None where no batch is open."""
        batch_id = newest_open_batch(self._database, self._task.name)
        if batch_id is None:
            return None
        batch = read_batch(self._database, batch_id)
        disputed = [row for row in batch.rows if row.outcome.state == "disputed"]
        own = {row.number for row in disputed if any(said.reviewer == self._lead for said in row.said)}
        return Docket(
            batch=batch,
            waiting=tuple(row.number for row in disputed if row.number not in own),
            decided=tuple(row.number for row in batch.rows if _decision_of(row, self._lead) is not None),
            others=len(own),
        )

    def open(self, docket: Docket, number: int) -> Dispute:
        """A row that waits for this lead, or that they have decided."""
        row = next(row for row in docket.batch.rows if row.number == number)
        return Dispute(docket.batch, row, sides_of(docket.batch.batch_id, row), _decision_of(row, self._lead))

    def go(self, docket: Docket, here: Dispute | None, way: Way) -> Dispute | None:
        """Later: the next row that waits, the first again after the last. Earlier: what they have decided before."""
        number = here.row.number if here else 0
        if way == "earlier":
            before = [n for n in docket.decided if here is None or here.decided is None or n < number]
            return self.open(docket, before[-1]) if before else here
        after = [n for n in docket.waiting if n > number] or list(docket.waiting)
        return self.open(docket, after[0]) if after else None

    def decide(self, dispute: Dispute, said: Annotation) -> None:
        """Keeps the decision.

        Raises:
            BadInput: It cannot be kept; somebody else decided it meanwhile, or the batch was closed.
            SaidElsewhere: They decided it meanwhile themselves.
        """
        batch_id, number, labels = dispute.batch.batch_id, dispute.row.number, self._task.labeling.labels
        now = next((row for row in read_batch(self._database, batch_id).rows if row.number == number), dispute.row)
        decided = _decision_of(now, self._lead)
        if decided is not None and decided != dispute.decided:
            raise SaidElsewhere(decided)
        adjudicate(self._database, batch_id, number, self._lead, said, labels)


def sides_of(batch_id: str, row: Reviewed) -> tuple[Side, ...]:
    """Reviewers' words under letters: the same at every look, and A is not always the same person."""
    words = [said for said in row.said if not said.adjudication]
    shuffled = sorted(words, key=lambda said: content_id("side", [batch_id, row.number, said.reviewer]))
    # Where one flagged or skipped, what can be chosen comes first.
    shuffled.sort(key=lambda said: said.decision != "answer")
    return tuple(Side(letter, said) for letter, said in zip(LETTERS, shuffled, strict=False))


def _decision_of(row: Reviewed, lead: str) -> Said | None:
    return next((said for said in row.said if said.adjudication and said.reviewer == lead), None)
