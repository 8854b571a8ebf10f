"""Simulated traffic of real text with known truth: how often does the drift alarm ring for nothing, and how soon for a
reason?

A world is one draw of a reference; production is drawn, with replacement, from the rows that are left. Printing and
targets are in `evidence.py`; the test suite runs a few of these.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.drift.evidence import Evidence, categories_of
from finetune_platform.drift.null_bounds import Ints
from finetune_platform.drift.reference import Reference, make_reference
from finetune_platform.drift.rows import TrafficRow

YEAR = 365
MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
OVERSAMPLED = 10
"""Intents that become three times as frequent."""


class Texts(NamedTuple):
    """Questions with their vectors; `labels` may be empty strings."""

    questions: npt.NDArray[np.str_]
    labels: npt.NDArray[np.str_]
    vectors: npt.NDArray[np.float32]

    def rows(self) -> list[TrafficRow]:
        return [TrafficRow(interaction_id="", timestamp=MOMENT, question=str(text)) for text in self.questions]

    def taken(self, which: Ints) -> "Texts":
        return Texts(self.questions[which], self.labels[which], self.vectors[which])


@dataclass(frozen=True)
class World:
    """A reference, and what production and foreign rows are to it.

    Attributes:
        reference: Made of some rows of the traffic.
        home: Categories of the other rows, by channel.
        same: Number of each of these rows' text: repeats of a text have one.
        labels: Of these rows.
        foreign: Categories of rows of other texts, by text and channel.
    """

    reference: Reference
    home: Mapping[str, Ints]
    same: Ints
    labels: npt.NDArray[np.str_]
    foreign: Mapping[str, Mapping[str, Ints]]

    @classmethod
    def of(cls, seed: int, traffic: Texts, foreign: Mapping[str, Texts], reference_rows: int) -> "World":
        order = np.random.default_rng(seed).permutation(len(traffic.questions))
        known, rest = traffic.taken(order[:reference_rows]), traffic.taken(order[reference_rows:])
        reference = make_reference(known.rows(), known.vectors, answered=False)
        return cls(
            reference,
            categories_of(reference, rest.rows(), rest.vectors),
            np.unique(rest.questions, return_inverse=True)[1],
            rest.labels,
            {name: categories_of(reference, texts.rows(), texts.vectors) for name, texts in foreign.items()},
        )


class Change(NamedTuple):
    """What is other than the reference: a share of rows of another text, or intents that are more frequent."""

    name: str
    text: str = ""
    share: float = 0.0
    factor: float = 1.0


NO_CHANGE = Change("none")


def first_alarm(world: World, rows: int, change: Change, ticks: int, seed: int) -> int | None:
    """In which tick, from 1, the alarm rings; None: in none of so many."""
    rng = np.random.default_rng(seed)
    stream = Stream(world, rows, change, rng)
    evidence = Evidence.none(world.reference)
    for number in range(1, ticks + 1):
        evidence = evidence.seen(world.reference, stream.tick())
        if evidence.is_alarm:
            return number
    return None


class Stream:
    """Ticks of so many rows of a world after a change."""

    def __init__(self, world: World, rows: int, change: Change, rng: np.random.Generator) -> None:
        self.world, self.rows, self.change, self.rng = world, rows, change, rng
        self.weights = None
        if change.factor != 1.0:
            more = rng.permutation(np.unique(world.labels))[:OVERSAMPLED]
            weights = np.where(np.isin(world.labels, more), change.factor, 1.0)
            self.weights = weights / weights.sum()

    def drawn(self) -> tuple[Ints, Ints]:
        """Rows of a tick, each text once: which row of home, and which foreign row instead (-1: none)."""
        home = self.rng.choice(len(self.world.same), self.rows, p=self.weights)
        home = home[np.unique(self.world.same[home], return_index=True)[1]]
        self.rng.shuffle(home)
        foreign = np.full(len(home), -1)
        if self.change.share:
            other = self.rng.random(len(home)) < self.change.share
            size = len(next(iter(self.world.foreign[self.change.text].values())))
            foreign[other] = self.rng.integers(0, size, other.sum())
        return home, foreign

    def tick(self) -> dict[str, Ints]:
        """Categories of a tick's rows, by channel."""
        home, foreign = self.drawn()
        found = {name: categories[home] for name, categories in self.world.home.items()}
        if self.change.share:
            instead = self.world.foreign[self.change.text]
            found = {name: np.where(foreign < 0, own, instead[name][foreign]) for name, own in found.items()}
        return found


class Question(NamedTuple):
    """What one world is asked: `repeats` streams of so many rows a tick."""

    rows: int
    change: Change
    ticks: int
    repeats: int


def answers(
    worlds: int,
    questions: Sequence[Question],
    folder: Path,
    traffic: Texts,
    foreign: Mapping[str, Texts],
    reference_rows: int,
    workers: int,
) -> dict[Question, list[int | None]]:
    """First alarms of all streams of all worlds, by question."""
    kept = {"home": traffic, **{f"foreign:{name}": texts for name, texts in foreign.items()}}
    np.savez(
        folder / "texts.npz", **{f"{name}|{part}": a for name, t in kept.items() for part, a in t._asdict().items()}
    )
    with ProcessPoolExecutor(workers) as pool:
        ask = partial(_asked, questions=questions, file=folder / "texts.npz", reference_rows=reference_rows)
        found: dict[Question, list[int | None]] = {question: [] for question in questions}
        for told in pool.map(ask, range(worlds)):
            for question, alarms in zip(questions, told, strict=True):
                found[question] += alarms
    return found


def _asked(seed: int, questions: Sequence[Question], file: Path, reference_rows: int) -> list[list[int | None]]:
    held = np.load(file)
    names = {name.partition("|")[0] for name in held.files}
    texts = {name: Texts(*(held[f"{name}|{part}"] for part in Texts._fields)) for name in names}
    foreign = {name.removeprefix("foreign:"): t for name, t in texts.items() if name != "home"}
    world = World.of(seed, texts["home"], foreign, reference_rows)
    return [
        [first_alarm(world, q.rows, q.change, q.ticks, 1000 * seed + 7 + number) for number in range(q.repeats)]
        for q in questions
    ]
