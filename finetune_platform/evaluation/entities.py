"""Entities as answers spell them: reading them, and counting the right, the extra and the missing ones.

The spelling is the task file's `EntityFormat`. Whether an answer keeps to the format exactly is not judged here:
that is the metric `valid_format`, and an answer should not lose twice for one missing bracket.
"""

from collections import Counter
from typing import NamedTuple

from finetune_platform.task import EntityFormat


class Entity(NamedTuple):
    """A named thing; compared by its exact name (white space folded) and type."""

    name: str
    type: str


class EntityCounts(NamedTuple):
    """Entities of one answer against one gold answer: right, extra, missing."""

    true_positives: int
    false_positives: int
    false_negatives: int


def parse_entities(text: str, spelling: EntityFormat) -> list[Entity]:
    """The entities that an answer names, in order, repetitions included. Never fails.

    - Words around a bracketed list are ignored; of several lists the last one counts, as in "my final answer is".
    - A text without brackets is read line by line and keeps the items that have one of `spelling.types`.
    - A piece without a type belongs to the name that follows it (`Smith, Jr. - PERSON`); at the end of a list, where
      an answer was cut off, it is an entity of no type and so counts as wrong.
    """
    text = text.strip()
    if not text or (spelling.empty and text == spelling.empty.strip()):
        return []
    inner = _list_in(text, spelling)
    if inner is not None:
        return _items(inner, spelling)
    lines = [_items(line, spelling) for line in text.splitlines()]
    return [entity for items in lines for entity in items if entity.type in spelling.types]


def count_entities(answer: str, gold: str, spelling: EntityFormat) -> EntityCounts:
    """Multiset comparison: an entity named twice must be found twice."""
    ours, theirs = Counter(parse_entities(answer, spelling)), Counter(parse_entities(gold, spelling))
    right = (ours & theirs).total()
    return EntityCounts(right, ours.total() - right, theirs.total() - right)


def _list_in(text: str, spelling: EntityFormat) -> str | None:
    """What stands between the brackets; None where the text has no list."""
    opening, closing = spelling.opening, spelling.closing
    if not opening:
        return text.removesuffix(closing)
    if text.startswith(opening):
        rest = text[len(opening) :]
        if not closing or closing not in rest or rest.endswith(closing):
            return rest.removesuffix(closing)
    start = text.rfind(opening)
    if start < 0:
        return None
    rest = text[start + len(opening) :]
    return rest.rpartition(closing)[0] if closing and closing in rest else rest


def _items(inner: str, spelling: EntityFormat) -> list[Entity]:
    pieces = inner.split(spelling.item_separator) if spelling.item_separator else [inner]
    entities: list[Entity] = []
    name_so_far: list[str] = []
    for piece in pieces:
        if not spelling.type_separator:
            entities.append(_entity(piece, ""))
            continue
        # The separator may also stand inside a name ("Coca - Cola - ORGANIZATION"): the last one splits.
        name, separator, kind = piece.rpartition(spelling.type_separator)
        name_so_far.append(name if separator else piece)
        if separator:
            entities.append(_entity(spelling.item_separator.join(name_so_far), kind))
            name_so_far = []
    entities.append(_entity(spelling.item_separator.join(name_so_far), ""))
    return [e for e in entities if e.name or e.type]


def _entity(name: str, kind: str) -> Entity:
    return Entity(" ".join(name.split()), " ".join(kind.split()))
