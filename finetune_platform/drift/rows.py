"""A row of traffic as drift looks at it, and which rows of a tick count."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from finetune_platform.drift.null_bounds import Vectors

NEAR_DUPLICATE = 0.98
"""Cosine from which two questions of a tick are one: the same words with another number, or a letter changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficRow:
    """One interaction.

    Attributes:
        question: The user's messages, one text.
        answer: None where there is none.
        format_valid: None where the task names no format.
        session: Empty where the caller named none.
    """

    interaction_id: str
    timestamp: datetime
    question: str
    answer: str | None = None
    session: str = ""
    tenant: str = ""
    adapter_id: str = ""
    format_valid: bool | None = None
    refused: bool = False
    failed: bool = False
    latency_ms: float | None = None


def counted(rows: Sequence[TrafficRow], vectors: Vectors) -> list[int]:
    """The rows that count: one of each session and of each near-duplicate, the first that came.

    A client that asks the same thing all day is one fact about the world, not a thousand.

    Args:
        rows: Of one tick.
        vectors: Of their questions, of length one, `(rows, dimension)`.
    """
    held = np.empty_like(vectors)
    sessions: set[str] = set()
    questions: set[str] = set()
    kept: list[int] = []
    for number, row in enumerate(rows):
        question = " ".join(re.findall(r"\w+", row.question.lower()))
        if question in questions or (row.session and row.session in sessions):
            continue
        if kept and float(np.max(held[: len(kept)] @ vectors[number])) >= NEAR_DUPLICATE:
            continue
        held[len(kept)] = vectors[number]
        questions.add(question)
        sessions.add(row.session)
        kept.append(number)
    return kept
