"""The frozen picture of a task's traffic that new traffic is compared with.

Its rows are split in two: one half makes the channels, the other says how frequent their categories are. Which rows
make a reference, and where it is kept, belongs to whoever asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_platform.drift.bin_evidence import BinNull
from finetune_platform.drift.cell_evidence import CellNull
from finetune_platform.drift.channels import (
    NOVELTY_QUANTILES,
    Channel,
    Labelled,
    Measured,
    Mix,
    Novelty,
    novelty,
    vocabulary,
)
from finetune_platform.drift.null_bounds import Floats, Ints, Vectors
from finetune_platform.drift.rows import TrafficRow

LEVEL = 0.02
"""Probability, for each channel, that the reference is too small to say what its bounds say."""

SET_LEVEL = 0.002
"""The same for one set of kinds. Sets are chosen by what production showed, and over a year there are several."""

QUESTIONS = ("length of questions", "unknown words")
ANSWERS = ("length of answers", "latency")
LABELS_OF_QUESTIONS = ("script", "language")
LABELS_OF_ANSWERS = ("answers", "format", "refusals", "errors")


@dataclass(frozen=True)
class Reference:
    """Channels, each with what the reference says of its categories.

    Attributes:
        rows: How many rows made it, both halves.
    """

    rows: int
    channels: tuple[tuple[Channel, BinNull | CellNull], ...]

    @property
    def names(self) -> list[str]:
        return [channel.name for channel, _ in self.channels]

    def novelty_of(self, vectors: Vectors) -> Floats:
        """How strange questions are, the larger the stranger: `(rows,)`.

        Args:
            vectors: Of length one, by the embedder of the reference's, `(rows, dimension)`.
        """
        return novelty(vectors, self._novelty.vectors)

    def novelty_at(self, quantile: float) -> float:
        """What so much of the reference stays below; `quantile` is one of `NOVELTY_QUANTILES`."""
        edges = self._novelty.edges
        return float(edges[min(NOVELTY_QUANTILES.index(quantile), len(edges) - 1)])

    @property
    def _novelty(self) -> Novelty:
        return next(channel for channel, _ in self.channels if isinstance(channel, Novelty))


def make_reference(rows: Sequence[TrafficRow], vectors: Vectors, *, answered: bool = True) -> Reference:
    """A reference of rows that came before.

    Args:
        rows: Traffic or validation data, never rows that the model trained on.
        vectors: Of their questions, of length one, `(rows, dimension)`.
        answered: Whether the rows are traffic: without answers only questions are compared.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    half = len(rows) // 2
    defining, held_out = [rows[i] for i in order[:half]], [rows[i] for i in order[half:]]
    first, second = vectors[order[:half]], vectors[order[half:]]
    mix = Mix.of(first)
    made: list[tuple[Channel, BinNull | CellNull]] = [
        (mix, CellNull.of(_counts(mix, defining, first), _counts(mix, held_out, second), SET_LEVEL))
    ]
    channels: list[Channel] = [Novelty.of(first, second)]
    for name in (*QUESTIONS, *(ANSWERS if answered else ())):
        channels.append(Measured.of(name, defining, vocabulary(defining) if name == "unknown words" else frozenset()))
    for name in (*LABELS_OF_QUESTIONS, *(LABELS_OF_ANSWERS if answered else ())):
        channels.append(Labelled.of(name, defining))
    made += [(channel, BinNull.of(_counts(channel, held_out, second), LEVEL)) for channel in channels]
    return Reference(len(rows), tuple(made))


def _counts(channel: Channel, rows: Sequence[TrafficRow], vectors: Vectors) -> Ints:
    return np.bincount(channel.of_rows(rows, vectors), minlength=channel.categories)
