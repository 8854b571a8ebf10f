"""What users said of answers, beside what was asked: corrections, and answers that were taken as they were."""

from datetime import datetime
from typing import Any, Literal, NamedTuple

import pyarrow.compute as pc

from finetune_platform.lake import Lake
from finetune_platform.serving.answered_sample import Asked, asked_of
from finetune_platform.serving.interactions import feedback_path

FEEDBACK_COLUMNS = ("interaction_id", "timestamp", "adapter_id", "correction", "accepted", "key_id")


class SaidOfAnswer(NamedTuple):
    """A user's word that gives the right answer of one interaction.

    Attributes:
        messages: What was asked, as it was logged.
        answered: What the model answered; None where nothing.
        answer: What it should have been: the correction, or the accepted answer itself.
        said_by: The key that sent the word.
    """

    interaction_id: str
    messages: tuple[dict[str, Any], ...]
    answered: str | None
    answer: str
    kind: Literal["correction", "accepted"]
    adapter_id: str
    said_by: str
    said_at: datetime


def said_of_answers(lake: Lake, task: str) -> list[SaidOfAnswer]:
    """Every correction and accepted answer that the log holds, oldest first; the last word on an interaction counts.

    Words on interactions that the log does not hold (any more) say nothing.
    """
    words = _words(lake, task)
    asked = asked_of(lake, task, words)
    found = [_said(words[name], asked[name]) for name in words if name in asked]
    return sorted((one for one in found if one is not None), key=lambda one: (one.said_at, one.interaction_id))


def _words(lake: Lake, task: str) -> dict[str, dict[str, Any]]:
    try:
        log = lake.table(feedback_path(task))
    except FileNotFoundError:
        return {}
    with lake.table_failures(feedback_path(task)):
        table = log.to_pyarrow_table(columns=list(FEEDBACK_COLUMNS))
    telling = pc.or_kleene(pc.is_valid(table.column("correction")), pc.fill_null(table.column("accepted"), False))
    rows = sorted(table.filter(telling).to_pylist(), key=lambda row: row["timestamp"])
    return {row["interaction_id"]: row for row in rows}


def _said(word: dict[str, Any], asked: Asked) -> SaidOfAnswer | None:
    answer = word["correction"] if word["correction"] is not None else asked.answer
    if answer is None or not asked.messages:
        return None
    return SaidOfAnswer(
        interaction_id=word["interaction_id"],
        messages=asked.messages,
        answered=asked.answer,
        answer=answer,
        kind="accepted" if word["correction"] is None else "correction",
        adapter_id=word["adapter_id"],
        said_by=word["key_id"] or "",
        said_at=word["timestamp"],
    )
