"""How likely a logged answer is wrong."""

import numpy as np

from finetune_platform.labeling.hardness import doubts
from finetune_platform.labeling.spread import Vectors


def questions(centres: list[int], seed: int) -> Vectors:
    """Questions near the unit vectors of a few kinds."""
    vectors = np.eye(8)[centres] + 0.1 * np.random.default_rng(seed).normal(size=(len(centres), 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


KNOWN = questions([0] * 10 + [1] * 10, 0)
ANSWERS = ["card"] * 10 + ["transfer"] * 10


def test_answers_that_neighbours_do_not_give_are_doubted() -> None:
    asked = questions([0, 0, 1, 1], 1)
    assert doubts(asked, ["card", " card\n", "card", None], KNOWN, ANSWERS).round(3).tolist() == [0, 0, 1, 1]


def test_between_two_kinds_the_doubt_is_partial() -> None:
    halfway = (KNOWN[0] + KNOWN[10])[None] / np.linalg.norm(KNOWN[0] + KNOWN[10])
    known, right = KNOWN[[0, 1, 10, 11]], ["card", "card", "transfer", "transfer"]
    assert 0.4 < doubts(halfway, ["card"], known, right)[0] < 0.6


def test_without_known_answers_every_answer_is_doubted_alike() -> None:
    assert doubts(KNOWN, ANSWERS, KNOWN[:0], []).tolist() == [1.0] * 20
    assert doubts(KNOWN[:0], [], KNOWN, ANSWERS).tolist() == []


def test_many_rows_are_judged_like_few() -> None:
    asked = questions([0, 1] * 1500, 2)
    answers = ["card", "card"] * 1500
    assert np.array_equal(doubts(asked, answers, KNOWN, ANSWERS).round(9), [0.0, 1.0] * 1500)
