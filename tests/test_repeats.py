"""Which rows of traffic count."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.repeats import BLOCK, NEAR_DUPLICATE, counted


class Row(NamedTuple):
    question: str
    session: str = ""


def directions(rows: int, dimension: int = 16) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(0).normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_repeats_count_once() -> None:
    vectors = directions(6)
    vectors[4] = vectors[3]
    rows = [
        Row("Where is my card?", "a"),
        Row("something else", "a"),
        Row("where is my CARD"),
        Row("lost it"),
        Row("lost it 2"),
        Row("another one"),
    ]
    assert counted(rows, vectors) == [0, 3, 5]


def test_rows_far_apart_are_compared_too() -> None:
    # In three dimensions hundreds of directions have neighbours everywhere, within a block and between blocks.
    vectors = directions(3 * BLOCK, 3)
    rows = [Row(f"question {i}") for i in range(len(vectors))]
    kept: list[int] = []
    for i, vector in enumerate(vectors):
        if all(float(vector @ vectors[k]) < NEAR_DUPLICATE for k in kept):
            kept.append(i)
    assert counted(rows, vectors) == kept
    assert kept[-1] > BLOCK and len(kept) < len(rows)


def test_no_rows() -> None:
    assert counted([], directions(0)) == []
