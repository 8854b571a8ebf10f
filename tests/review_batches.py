"""Batches of rows, as tests of the people's work share them."""

from collections.abc import Sequence

from finetune_platform.database import Database
from finetune_platform.labeling.answering import Annotation, annotate
from finetune_platform.labeling.batches import ToReview, open_batch
from finetune_platform.labeling.items import Item, Selection
from finetune_platform.rows import Message

TASK, BATCH = "greetings", "rb-000000000001"


def item(
    question: str = "hello",
    suggestion: str | None = "greeting",
    wanted: int = 1,
    selection: Selection = "random",
    gold: str | None = None,
    hides_suggestion: bool = False,
) -> Item:
    return Item(
        messages=[Message(role="user", content=question)],
        suggestion=suggestion,
        selection=selection,
        inclusion_probability=None if selection == "gold" else 0.5,
        wanted=wanted,
        gold=gold,
        hides_suggestion=hides_suggestion,
        adapter_id="ad-1",
    )


def a_batch(database: Database, items: Sequence[Item], cause: str = "alarm 1", batch_id: str = BATCH) -> str:
    rows = [
        ToReview(None if one.selection == "gold" else f"in-{number}", one) for number, one in enumerate(items, start=1)
    ]
    return open_batch(database, TASK, batch_id, cause, "traffic has drifted", rows)


def say(database: Database, number: int, reviewer: str, answer: str, batch_id: str = BATCH) -> None:
    annotate(database, batch_id, number, reviewer, Annotation("answer", answer, seconds=4.0))
