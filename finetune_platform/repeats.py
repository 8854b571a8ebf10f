"""Which rows of traffic count: somebody who asks the same thing all day is one fact about the world, not a thousand.

Drift and the choice of rows for experts share it. Near-duplicates in a dataset, which splits must not cut, are found in
`curation/groups.py`.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

NEAR_DUPLICATE = 0.98
"""Cosine from which two questions are one: the same words with another number, or a letter changed."""

BLOCK = 256
"""Rows that are compared with all earlier ones by one matrix product: row by row, memory is what takes the time."""


class Asked(Protocol):
    """A row of traffic: what was asked, and in which session; empty where the caller named none."""

    @property
    def question(self) -> str: ...

    @property
    def session(self) -> str: ...


def counted(rows: Sequence[Asked], vectors: npt.NDArray[np.float32]) -> list[int]:
    """The rows that count: one of each session and of each near-duplicate, the first that came.

    Args:
        rows: In the order in which they came.
        vectors: Of their questions, of length one, `(rows, dimension)`.
    """
    held = np.empty_like(vectors)
    sessions: set[str] = set()
    questions: set[str] = set()
    kept: list[int] = []
    for start in range(0, len(rows), BLOCK):
        block = vectors[start : start + BLOCK]
        nearest = (block @ held[: len(kept)].T).max(axis=1, initial=-1.0)
        among = block @ block.T
        own: list[int] = []
        for place, row in enumerate(rows[start : start + BLOCK]):
            question = " ".join(re.findall(r"\w+", row.question.lower()))
            if question in questions or (row.session and row.session in sessions):
                continue
            if max(nearest[place], among[place, own].max(initial=-1.0)) >= NEAR_DUPLICATE:
                continue
            held[len(kept)] = block[place]
            questions.add(question)
            sessions.add(row.session)
            own.append(place)
            kept.append(start + place)
    return kept
