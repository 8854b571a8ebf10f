"""MMD-FUSE by simulation: it rings for nothing as rarely as promised, and finds a shift."""

import numpy as np
import pytest

from finetune_platform.drift.null_bounds import Vectors
from finetune_platform.drift.two_sample import mmd_fuse

PERMUTATIONS = 39


def directions(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Vectors:
    vectors = rng.normal(size=(rows, 16)) + shift * np.eye(16)[0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rejected(shift: float, worlds: int, rows: tuple[int, int] = (30, 40), alpha: float = 0.05) -> float:
    found = 0
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        first, second = directions(rng, rows[0]), directions(rng, rows[1], shift)
        found += mmd_fuse(first, second, seed=seed, permutations=PERMUTATIONS).p_value <= alpha
    return found / worlds


def test_without_a_change_it_rejects_no_more_than_its_level() -> None:
    # 100 worlds at 5%: more than 11 rejections would come by chance once in two hundred runs.
    assert rejected(0.0, 100) <= 11 / 100


def test_a_shift_is_found() -> None:
    assert rejected(1.2, 20) >= 0.9


def test_a_change_of_spread_is_found_too() -> None:
    rng = np.random.default_rng(0)
    close = directions(rng, 60, 2.0) - directions(rng, 60, 2.0) * 0.5
    assert mmd_fuse(directions(rng, 60), close, permutations=PERMUTATIONS).p_value == pytest.approx(
        1 / (PERMUTATIONS + 1)
    )


def test_the_same_rows_give_the_same_answer_and_p_is_a_share_of_relabellings() -> None:
    rng = np.random.default_rng(1)
    first, second = directions(rng, 700), directions(rng, 30, 3.0)
    told = mmd_fuse(first, second, permutations=PERMUTATIONS)
    assert told == mmd_fuse(first, second, permutations=PERMUTATIONS)
    assert told.rows == (500, 30) and told.p_value == pytest.approx(1 / (PERMUTATIONS + 1)) and told.statistic > 0.1


def test_statistic_is_the_definition() -> None:
    """Against the formula written out, with sums over pairs."""
    rng = np.random.default_rng(2)
    x, y = directions(rng, 6), directions(rng, 9, 1.0)
    z = np.concatenate([x, y]).astype(np.float64)
    values = []
    for power in (1, 2):
        distances = np.array([[np.linalg.norm(a - b, power) for b in z] for a in z])
        low, high = np.quantile(distances[np.triu_indices(15, 1)], (0.05, 0.95))
        for width in np.linspace(low / 2, high * 2, 10):
            k = np.exp(-distances / width) if power == 1 else np.exp(-(distances**2) / (2 * width**2))
            inside = [k[i, j] for i in range(6) for j in range(6) if i != j]
            outside = [k[i, j] for i in range(6, 15) for j in range(6, 15) if i != j]
            every = [k[i, j] ** 2 for i in range(15) for j in range(15) if i != j]
            squared = np.mean(inside) + np.mean(outside) - 2 * k[:6, 6:].mean()
            values.append(squared / np.sqrt(np.mean(every)))
    temperature = np.sqrt(6 * 5)
    expected = np.log(np.mean(np.exp(temperature * np.array(values)))) / temperature
    assert mmd_fuse(x, y, permutations=9).statistic == pytest.approx(expected, rel=1e-4)
