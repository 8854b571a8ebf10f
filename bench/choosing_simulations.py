"""Simulated rounds of labeling on real text: how good is a model after so many labels, chosen in this way or that?

Experts are simulated: they give the data set's label at once and never err. The model is a logistic regression,
trained anew after each batch. Printing and targets are in `choosing_figures.py`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from finetune_platform.drift.channels import novelty
from finetune_platform.labeling.choosing import Candidate, Chosen, choose
from finetune_platform.labeling.hardness import doubts
from finetune_platform.task_labeling import Labeling

BATCH = 100
NEW_INTENTS, KNOWN_ROWS, FIRST_ROWS = 20, 1500, 200

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Signal = Literal["neighbours", "margin"]


class Questions(NamedTuple):
    """Rows with their labels.

    Attributes:
        vectors: What rows are chosen by, of length one.
        features: What the model sees: the same, or something else.
    """

    texts: Sequence[str]
    labels: npt.NDArray[np.str_]
    vectors: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Way:
    """How rows are chosen.

    Attributes:
        random: Share of a batch.
        novel: Share of a batch; what is left are hard rows.
        signal: Of hardness: what the log and earlier labels tell, or the model's own margin, which needs its
            log-probabilities.
    """

    name: str
    random: float
    novel: float
    signal: Signal = "neighbours"


class Course(NamedTuple):
    """One simulation.

    Attributes:
        accuracy: On the test rows before the first batch and after each.
        measured: Of each batch: share of wrong answers as its random part tells it, minus the truth.
        averaged: The same of the plain average over the batch.
    """

    accuracy: Floats
    measured: Floats
    averaged: Floats


@dataclass(frozen=True)
class World:
    """Rows that are labelled at first, rows of traffic, and rows to test on, by number; whether an alarm was raised."""

    labelled: Ints
    traffic: Ints
    test: Ints
    drifted: bool


def from_nothing(train: Questions, test: Questions, rng: np.random.Generator) -> World:
    """Two hundred random rows are labelled."""
    order = rng.permutation(len(train.labels))
    return World(order[:FIRST_ROWS], order[FIRST_ROWS:], np.arange(len(test.labels)), drifted=False)


def after_drift(train: Questions, test: Questions, rng: np.random.Generator) -> World:
    """The model learnt 57 of the 77 intents from 1,500 rows; now people ask all of them."""
    order = rng.permutation(len(train.labels))
    new = rng.permutation(np.unique(train.labels))[:NEW_INTENTS]
    known = order[~np.isin(train.labels[order], new)][:KNOWN_ROWS]
    return World(known, order[~np.isin(order, known)], np.arange(len(test.labels)), drifted=True)


WORLDS = {"after drift": after_drift, "from 200 rows": from_nothing}


def courses(world: str, way: Way, train: Questions, test: Questions, seeds: int, rounds: int, workers: int) -> Course:
    """The mean course over simulations that differ by their seed."""
    run = partial(_course, world, way, train, test, rounds)
    with ProcessPoolExecutor(workers) as pool:
        found = list(pool.map(run, range(seeds)))
    return Course(*(np.mean([course[i] for course in found], axis=0) for i in range(len(Course._fields))))


def _course(world: str, way: Way, train: Questions, test: Questions, rounds: int, seed: int) -> Course:
    # One thread a simulation: as many run at once as there are cores.
    with threadpool_limits(1):
        found = list(_rounds(WORLDS[world](train, test, np.random.default_rng(seed)), way, train, test, rounds, seed))
    return Course(*(np.array(values) for values in zip(*found, strict=True)))


def _rounds(
    world: World, way: Way, train: Questions, test: Questions, rounds: int, seed: int
) -> Iterator[tuple[float, float, float]]:
    labeling = Labeling(budget=BATCH, random_share=way.random, novel_share=way.novel)
    labelled = world.labelled
    for number in range(rounds + 1):
        model = LogisticRegression(C=30, tol=1e-3).fit(train.features[labelled], train.labels[labelled])
        accuracy = float(model.score(test.features[world.test], test.labels[world.test]))
        rows = np.setdiff1d(world.traffic, labelled)
        sure = model.predict_proba(train.features[rows])
        answers = model.classes_[sure.argmax(axis=1)]
        if way.signal == "margin":
            best = np.sort(sure, axis=1)
            hardness = best[:, -2] - best[:, -1]
        else:
            hardness = doubts(train.vectors[rows], answers, train.vectors[labelled], train.labels[labelled])
        # Without an alarm nothing is novel.
        strange = novelty(train.vectors[rows], train.vectors[labelled]) if world.drifted else None
        chosen = choose(_candidates(train, rows, answers, strange, hardness), labeling, 100 * seed + number)
        wrong = dict(zip(map(str, rows), answers != train.labels[rows], strict=True))
        yield accuracy, *_errors(chosen, wrong)
        labelled = np.concatenate([labelled, [int(row.candidate.interaction_id) for row in chosen]])


def _errors(chosen: Sequence[Chosen], wrong: dict[str, np.bool]) -> tuple[float, float]:
    """How far two estimates of the share of wrong answers are off: by the random part, by the whole batch."""
    truth = np.mean(list(wrong.values()))
    told = np.array([wrong[row.candidate.interaction_id] for row in chosen])
    weights = np.array([(row.selection == "random") / row.inclusion_probability for row in chosen])
    return float((told * weights).sum() / weights.sum() - truth), float(told.mean() - truth)


def _candidates(
    train: Questions, rows: Ints, answers: npt.NDArray[np.str_], strange: Floats | None, hardness: Floats
) -> list[Candidate]:
    return [
        Candidate(
            interaction_id=str(row),
            messages=(),
            suggestion=str(answers[i]),
            adapter_id="",
            question=train.texts[row],
            vector=train.vectors[row],
            novelty=None if strange is None else float(strange[i]),
            hardness=float(hardness[i]),
        )
        for i, row in enumerate(rows)
    ]
