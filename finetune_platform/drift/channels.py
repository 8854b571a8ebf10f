"""What drift is looked for in: each channel puts every row into one of a few categories.

A channel is made from the defining half of a reference and holds all that it needs to judge new rows. What is bet on
the categories belongs in `bin_evidence.py` and `cell_evidence.py`, which rows make a reference in `reference.py`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from finetune_platform.drift.languages import language
from finetune_platform.drift.null_bounds import Floats, Ints, Vectors
from finetune_platform.drift.rows import TrafficRow

NEIGHBOURS = 5
NOVELTY_QUANTILES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
ROWS_PER_CELL = 31
MOST_CELLS = 80
MOST_LABELS = 20
COMMON = 0.005
"""Least share of the reference that a label of its own has; rarer ones are "another"."""

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Novelty:
    """How far a question is from those of the reference: mean cosine to its nearest five, by quantiles.

    Attributes:
        vectors: Of the defining half, `(rows, dimension)`.
        edges: Of the categories, rising; quantiles of the held-out half, as the defining half's own rows are each
            nearer to the others than a new one is.
    """

    vectors: Vectors
    edges: Floats
    name = "novelty of questions"

    @classmethod
    def of(cls, defining: Vectors, held_out: Vectors) -> "Novelty":
        edges = np.unique(np.quantile(novelty(held_out, defining), NOVELTY_QUANTILES))
        return cls(defining, edges)

    @property
    def categories(self) -> int:
        return len(self.edges) + 1

    def of_rows(self, rows: Sequence[TrafficRow], vectors: Vectors) -> Ints:
        """Category of each row, the least novel first."""
        return np.searchsorted(self.edges, novelty(vectors, self.vectors), side="left")


def novelty(vectors: Vectors, reference: Vectors) -> Floats:
    """Minus the mean cosine to the nearest of `reference`: `(rows,)`."""
    nearest = min(NEIGHBOURS, len(reference))
    similar = np.partition(vectors @ reference.T, -nearest, axis=1)[:, -nearest:]
    # Sorted: the same sum, to the last bit, whatever order the rows of the reference stand in.
    return -np.sort(similar, axis=1).mean(axis=1, dtype=np.float64)


@dataclass(frozen=True)
class Mix:
    """Which of the kinds of question that the reference has: the nearest of its k-means centres.

    Attributes:
        centres: Of length one, `(cells, dimension)`.
    """

    centres: Vectors
    name = "mix of questions"

    @classmethod
    def of(cls, defining: Vectors) -> "Mix":
        """Spherical k-means, the same for the same rows (Dhillon & Modha 2001, Machine Learning 42:143)."""
        rng = np.random.default_rng(0)
        cells = int(np.clip(len(defining) // ROWS_PER_CELL, 2, MOST_CELLS))
        centres = defining[rng.choice(len(defining), min(cells, len(defining)), replace=False)]
        for _ in range(15):
            nearest = (defining @ centres.T).argmax(axis=1)
            for cell in range(len(centres)):
                mine = defining[nearest == cell]
                centre = mine.mean(axis=0) if len(mine) else defining[rng.integers(len(defining))]
                centres[cell] = centre / max(float(np.linalg.norm(centre)), 1e-12)
        return cls(centres)

    @property
    def categories(self) -> int:
        return len(self.centres)

    def of_rows(self, rows: Sequence[TrafficRow], vectors: Vectors) -> Ints:
        """Cell of each row."""
        cells: Ints = (vectors @ self.centres.T).argmax(axis=1)
        return cells


@dataclass(frozen=True)
class Measured:
    """A number of each row, by quantiles of the reference.

    Attributes:
        name: One of `MEASURES`.
        edges: Of the categories, rising.
        words: What the measure of unknown words knows.
    """

    name: str
    edges: Floats
    words: frozenset[str] = frozenset()

    @classmethod
    def of(cls, name: str, rows: Sequence[TrafficRow], words: frozenset[str] = frozenset()) -> "Measured":
        values = [value for row in rows if (value := MEASURES[name](row, words)) is not None]
        return cls(name, np.unique(np.quantile(values, QUANTILES)) if values else np.zeros(0), words)

    @property
    def categories(self) -> int:
        return len(self.edges) + 2

    def of_rows(self, rows: Sequence[TrafficRow], vectors: Vectors) -> Ints:
        """Category of each row; the last is that of rows that have no such number."""
        values = [MEASURES[self.name](row, self.words) for row in rows]
        known = np.array([np.nan if value is None else value for value in values])
        return np.where(np.isnan(known), len(self.edges) + 1, np.searchsorted(self.edges, known, side="left"))


@dataclass(frozen=True)
class Labelled:
    """A word for each row, those that are common in the reference and one for all others.

    Attributes:
        name: One of `LABELS`.
        labels: The common ones.
    """

    name: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, name: str, rows: Sequence[TrafficRow]) -> "Labelled":
        found = Counter(LABELS[name](row) for row in rows)
        common = [label for label, count in found.most_common(MOST_LABELS) if count >= COMMON * len(rows)]
        return cls(name, tuple(sorted(common)))

    @property
    def categories(self) -> int:
        return len(self.labels) + 1

    def of_rows(self, rows: Sequence[TrafficRow], vectors: Vectors) -> Ints:
        """Category of each row; the last is that of all rare labels."""
        place = {label: number for number, label in enumerate(self.labels)}
        return np.array([place.get(LABELS[self.name](row), len(place)) for row in rows], dtype=np.int64)


Channel = Novelty | Mix | Measured | Labelled


def unknown_words(row: TrafficRow, known: frozenset[str]) -> float | None:
    """Share of a question's words that the reference does not hold."""
    words = WORD.findall(row.question.lower())
    return sum(word not in known for word in words) / len(words) if words else None


def vocabulary(rows: Sequence[TrafficRow]) -> frozenset[str]:
    """All words of the questions."""
    return frozenset(word for row in rows for word in WORD.findall(row.question.lower()))


def script(row: TrafficRow) -> str:
    """The script of most letters of a question, by their names in Unicode: LATIN, CYRILLIC, CJK …"""
    scripts = Counter(_script_of(letter) for letter in row.question[:2000] if letter.isalpha())
    return scripts.most_common(1)[0][0] if scripts else "none"


@lru_cache(maxsize=8192)
def _script_of(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").partition(" ")[0]


MEASURES: dict[str, Callable[[TrafficRow, frozenset[str]], float | None]] = {
    "length of questions": lambda row, words: float(len(row.question)),
    "unknown words": unknown_words,
    "length of answers": lambda row, words: None if row.answer is None else float(len(row.answer)),
    "latency": lambda row, words: row.latency_ms,
}

LABELS: dict[str, Callable[[TrafficRow], str]] = {
    "script": script,
    "language": lambda row: language(row.question),
    "answers": lambda row: "none" if row.answer is None else row.answer.strip(),
    "format": lambda row: "none" if row.format_valid is None else ("valid" if row.format_valid else "invalid"),
    "refusals": lambda row: "refused" if row.refused else "answered",
    "errors": lambda row: "failed" if row.failed else "answered",
}
