"""A row that people are asked about, what one person said of it, and what follows from what all said.

Pure values and rules; storing them belongs in `batches.py` and `answering.py`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from finetune_platform.manifests import Record
from finetune_platform.rows import Message

Selection = Literal["random", "hard", "novel", "gold"]
Decision = Literal["answer", "flag", "skip"]
State = Literal["open", "disputed", "settled", "excluded"]
How = Literal["single", "agreement", "adjudication"]
Source = Literal["pages", "label_studio", "simulated"]

MOST_SKIPS = 2
"""So many people could not say: somebody has to decide what becomes of the row."""


class Item(Record):
    """One row of a batch.

    Attributes:
        messages: What the model was asked, without the system prompt.
        suggestion: What it answered; None where it answered nothing.
        hides_suggestion: People do not see it: their answers show how far it leads them elsewhere.
        selection: Why the row was chosen; only `random` ones measure, `gold` ones measure people.
        inclusion_probability: That the batch's random part takes it, whichever part did; None for gold rows.
        score: Of the selection that chose it (novelty, hardness); None where it has none.
        wanted: So many people answer it.
        gold: The known answer of a gold row.
        adapter_id: Who answered it in production.
    """

    messages: list[Message]
    suggestion: str | None
    hides_suggestion: bool = False
    selection: Selection
    inclusion_probability: float | None = None
    score: float | None = None
    stratum: str = ""
    wanted: int = 1
    gold: str | None = None
    adapter_id: str = ""

    @property
    def shown_suggestion(self) -> str | None:
        """What people see of the model's answer."""
        return None if self.hides_suggestion else self.suggestion


class Said(NamedTuple):
    """What one person said of one item.

    Attributes:
        answer: None unless `decision` is "answer".
        reason: Of a flag or a skip; of an adjudication, where one was written.
        rating: Of the model's answer, 1 to 5; None where they gave none.
        seconds: They had the row open.
        adjudication: It decides what others disagreed on.
        simulated: Nobody said it, and it costs nothing.
    """

    reviewer: str
    decision: Decision
    answer: str | None
    reason: str
    rating: int | None
    seconds: float
    adjudication: bool
    at: datetime
    simulated: bool = False


class Outcome(NamedTuple):
    """What follows for one item. `answer` and `how` are set where it is settled, `why` where it is not."""

    state: State
    answer: str | None = None
    how: How | None = None
    why: str = ""


def outcome_of(item: Item, said: Sequence[Said]) -> Outcome:
    """What follows from what people said of an item.

    An adjudication decides. A flag, two skips or two different answers ask for one. Otherwise the item is settled
    once as many people as wanted gave the same answer.
    """
    decisive = next((s for s in said if s.adjudication), None)
    if decisive is not None:
        if decisive.decision == "answer":
            return Outcome("settled", decisive.answer, "adjudication")
        return Outcome("excluded", why=decisive.reason)
    answers = [s for s in said if s.decision == "answer"]
    flags = [s for s in said if s.decision == "flag"]
    skips = [s for s in said if s.decision == "skip"]
    if flags:
        return Outcome("disputed", why=f"flagged: {flags[0].reason}")
    if len({comparable(s.answer) for s in answers}) > 1:
        return Outcome("disputed", why="two people answered differently")
    if len(answers) >= item.wanted:
        return Outcome("settled", answers[0].answer, "agreement" if len(answers) > 1 else "single")
    if len(skips) >= MOST_SKIPS:
        return Outcome("disputed", why=f"{len(skips)} people skipped it: {skips[0].reason}")
    return Outcome("open")


def comparable(answer: str | None) -> str:
    """An answer without what does not matter between two people: white space at its ends and its runs."""
    return " ".join((answer or "").split())
