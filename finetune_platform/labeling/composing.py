"""Chosen rows become the items of a batch: some for two people, some without a suggestion, gold rows among them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune_platform.labeling.batches import ToReview
from finetune_platform.labeling.choosing import Chosen
from finetune_platform.labeling.items import Item
from finetune_platform.labeling.sampling import proportional
from finetune_platform.privacy import redact_json
from finetune_platform.rows import Message
from finetune_platform.task_labeling import Labeling


class Gold(NamedTuple):
    """A row whose answer is known: a test row, or one that experts agreed on."""

    messages: tuple[Message, ...]
    answer: str


def items_of(
    chosen: Sequence[Chosen], labeling: Labeling, gold: Sequence[Gold], seed: int, *, redact: bool
) -> list[ToReview]:
    """The items of a batch, in the order in which people see them.

    Rows for two people and rows without a suggestion are drawn at random, of each selection its share. A gold row has
    no suggestion, so it looks like a row that hides it.

    Args:
        chosen: As `choose` gives them.
        labeling: Its shares.
        gold: To draw gold rows from; all are taken where there are too few.
        seed: Of all that is drawn, the order too.
        redact: Whether personal data and secrets are replaced, as the task says for its log. What the log has replaced
            already stays as it is.
    """
    rng = np.random.default_rng(seed)
    selections = [row.selection for row in chosen]
    twice = set(proportional(selections, round(labeling.overlap_share * len(chosen)), rng))
    hidden = set(proportional(selections, round(labeling.hidden_suggestion_share * len(chosen)), rng))
    rows = [_to_review(row, 2 if i in twice else 1, i in hidden, redact) for i, row in enumerate(chosen)]
    # Of nothing chosen nothing is to be measured.
    wanted = min(round(labeling.gold_share * labeling.budget), len(gold)) if chosen else 0
    rows += [_gold(gold[i], redact) for i in rng.choice(len(gold), wanted, replace=False)] if wanted else []
    return [rows[i] for i in rng.permutation(len(rows))]


def _to_review(row: Chosen, wanted: int, hides_suggestion: bool, redact: bool) -> ToReview:
    candidate = row.candidate
    messages, suggestion = _shown(candidate.messages, candidate.suggestion, redact)
    item = Item(
        messages=messages,
        suggestion=suggestion,
        hides_suggestion=hides_suggestion,
        selection=row.selection,
        inclusion_probability=row.inclusion_probability,
        score=row.score,
        stratum=candidate.stratum,
        wanted=wanted,
        adapter_id=candidate.adapter_id,
    )
    return ToReview(candidate.interaction_id, item)


def _gold(row: Gold, redact: bool) -> ToReview:
    messages, answer = _shown(row.messages, row.answer, redact)
    return ToReview(None, Item(messages=messages, suggestion=None, selection="gold", gold=answer))


def _shown(messages: Sequence[Message], answer: str | None, redact: bool) -> tuple[list[Message], str | None]:
    """What people see. One numbering for question and answer: a value has one placeholder in both."""
    value: list[Any] = [[message.plain() for message in messages], answer]
    shown, told = redact_json(value)[0] if redact else value
    return [Message.model_validate(message) for message in shown], told
