"""Groups of rows that are alike: found where there are some, one where there are none."""

import numpy as np

from finetune_platform.drift.clusters import EXAMPLES, clusters_of
from finetune_platform.drift.null_bounds import Vectors


def around(rng: np.random.Generator, rows: int, axis: int, spread: float = 0.05) -> Vectors:
    vectors = np.eye(16)[axis] + spread * rng.normal(size=(rows, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_each_kind_is_a_group_the_largest_first() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([around(rng, 20, 0), around(rng, 40, 1), around(rng, 10, 2)])
    found = clusters_of(vectors, [f"text {n}" for n in range(70)])
    assert [len(cluster.rows) for cluster in found] == [40, 20, 10]
    assert found[0].rows == list(range(20, 60)) and set(found[0].examples) <= set(range(20, 60))
    assert found == clusters_of(vectors, [f"text {n}" for n in range(70)])


def test_examples_are_near_the_centre_and_each_another_text() -> None:
    rng = np.random.default_rng(1)
    vectors = np.concatenate([around(rng, 8, 0, 0.01), around(rng, 1, 0, 0.3)])
    found = clusters_of(vectors, ["same"] * 5 + [f"text {n}" for n in range(4)])
    assert len(found) == 1 and len(found[0].examples) == min(EXAMPLES, 5)
    assert sum(number < 5 for number in found[0].examples) == 1


def test_few_rows_and_rows_without_kinds_are_one_group() -> None:
    rng = np.random.default_rng(2)
    assert clusters_of(np.zeros((0, 16), dtype=np.float32), []) == []
    assert [len(c.rows) for c in clusters_of(around(rng, 6, 0), ["a"] * 6)] == [6]
    assert [len(c.rows) for c in clusters_of(np.repeat(around(rng, 1, 0), 30, axis=0), ["a"] * 30)] == [30]
