"""A fair sample of rows that come in pieces: a log of months is never held whole."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from finetune_platform.drift.rows import TrafficRow


class Sample(NamedTuple):
    """Some of the rows that were read.

    Attributes:
        rows: In the order in which they came.
        logged: How many were read.
        last: Moment of the newest that was read; None where there was none.
    """

    rows: list[TrafficRow]
    logged: int
    last: datetime | None


def sampled(pieces: Iterable[Sequence[TrafficRow]], most: int, seed: int) -> Sample:
    """All rows, or `most` of them, each as likely as any other.

    Args:
        pieces: Oldest first.
        most: At most so many are held beside one piece.
        seed: The same rows in the same pieces give the same sample.
    """
    rng, logged, last = np.random.default_rng(seed), 0, None
    rows: list[TrafficRow] = []
    keys = np.zeros(0)
    for piece in pieces:
        logged += len(piece)
        last = piece[-1].timestamp if piece else last
        rows += piece
        keys = np.concatenate([keys, rng.random(len(piece))])
        if len(rows) > most:
            kept = np.sort(np.argpartition(keys, most)[:most])
            rows, keys = [rows[number] for number in kept], keys[kept]
    return Sample(rows, logged, last)
