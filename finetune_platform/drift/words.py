"""Which words and pairs of words set two sets of texts apart."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

WORD = re.compile(r"\w+(?:['’]\w+)*")

PRIOR_COUNTS = 500.0
"""Counts that the prior weighs: a word of a few rows then stands far behind one of a tenth of all rows."""

LEAST_ROWS = 3
LEAST_Z = 3.0
MOST = 12


class Distinguishing(NamedTuple):
    """A word, or two in a row.

    Attributes:
        z: Standard deviations of the log-odds ratio above 0; positive where it is more frequent now.
        before: Rows that hold it.
        now: Rows that hold it.
    """

    words: str
    z: float
    before: int
    now: int


def distinguishing(before: Sequence[str], now: Sequence[str]) -> tuple[list[Distinguishing], list[Distinguishing]]:
    """What is more frequent now, and what is less frequent, the strongest first.

    The log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi & Quinn 2008, "Fightin' Words", Political
    Analysis 16:372, equations 15, 16, 20 and 22). A text counts once for each of its words, so that one long text is
    not many. A pair is left out where one of its words is there already and says as much, and the other way round.
    """
    first, second = (Counter(gram for text in texts for gram in _grams(text)) for texts in (before, now))
    names = [name for name, count in (first + second).items() if count >= LEAST_ROWS]
    if not names:
        return [], []
    y1, y2 = (np.array([counts[name] for name in names], dtype=np.float64) for counts in (first, second))
    prior = PRIOR_COUNTS * (y1 + y2) / (y1 + y2).sum()
    n1, n2 = (float(sum(counts.values())) for counts in (first, second))
    odds1, odds2 = (
        np.log((y + prior) / np.maximum(n + PRIOR_COUNTS - y - prior, 0.5)) for y, n in ((y1, n1), (y2, n2))
    )
    z = (odds2 - odds1) / np.sqrt(1.0 / (y1 + prior) + 1.0 / (y2 + prior))
    found = [
        Distinguishing(name, round(float(score), 2), int(a), int(b))
        for name, score, a, b in zip(names, z, y1, y2, strict=True)
        if abs(score) >= LEAST_Z
    ]
    found.sort(key=lambda gram: (-abs(gram.z), gram.words))
    return _apart(gram for gram in found if gram.z > 0), _apart(gram for gram in found if gram.z < 0)


def _grams(text: str) -> set[str]:
    words = WORD.findall(text.lower())
    return {*words, *(" ".join(pair) for pair in pairwise(words))}


def _apart(found: Iterable[Distinguishing]) -> list[Distinguishing]:
    kept: list[Distinguishing] = []
    for gram in found:
        rows = max(gram.before, gram.now)
        said = any(
            (f" {gram.words} " in f" {other.words} " or f" {other.words} " in f" {gram.words} ")
            and 0.5 <= rows / max(other.before, other.now) <= 2.0
            for other in kept
        )
        if not said:
            kept.append(gram)
        if len(kept) == MOST:
            break
    return kept
