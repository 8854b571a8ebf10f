"""Which rows begin alike, so that what they share is computed once for all that stand in one batch."""

import itertools
from collections.abc import Sequence

from finetune_platform.training.batches import Shape
from finetune_platform.training.collate import same_beginning, shared_tokens
from finetune_platform.training.rows import TrainRow

WORTH = 16
"""Tokens that rows of a part must share beyond what all share, for the part to be a family of its own."""


LEAST = 16
"""Rows of a family, so that it fills batches of its own."""


def shapes_of(rows: Sequence[TrainRow], least: int = LEAST) -> list[Shape]:
    """The shape of each row; rows of one family share as much as may be.

    Rows are sorted by their tokens and cut, again and again, where neighbours share hardly more than all do, as long as
    most of them come to stand in parts with rows enough for batches of their own; the others are one family.

    Args:
        rows: Tokenised.
        least: Rows that a family must have, those apart that fit into none.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].input_ids)
    alike = [same_beginning(rows[a].input_ids, rows[b].input_ids) for a, b in itertools.pairwise(order)]
    shapes: list[Shape | None] = [None] * len(rows)
    waiting: list[tuple[int, int]] = [(0, len(order))]
    families = 0
    while waiting:
        start, end = waiting.pop()
        inner = alike[start : end - 1]
        parts = _parts(inner, min(inner, default=0), start, end)
        large = [(a, b) for a, b in parts if b - a >= least]
        rest: Sequence[int] = range(start, end)
        if len(parts) > 1 and 2 * sum(b - a for a, b in large) > end - start:
            waiting += large
            rest = [i for a, b in parts if b - a < least for i in range(a, b)]
        common = shared_tokens([rows[order[i]] for i in rest]) if len(rest) else 0
        for i in rest:
            row = rows[order[i]]
            shapes[order[i]] = Shape(row.inputs, families, common)
        families += 1
    return [shape for shape in shapes if shape is not None]


def _parts(inner: Sequence[int], shared: int, start: int, end: int) -> list[tuple[int, int]]:
    """Where neighbours share hardly more than all do, the rows between `start` and `end` are cut."""
    cuts = [start, *(start + i + 1 for i, same in enumerate(inner) if same < shared + WORTH), end]
    return [(a, b) for a, b in itertools.pairwise(cuts)]
