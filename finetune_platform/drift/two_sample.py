"""Are two sets of vectors drawn from one distribution? A test that needs no choice of kernel.

What it is asked for belongs in `explanation.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from finetune_platform.drift.null_bounds import Floats, Vectors

BANDWIDTHS = 10
MOST_ROWS = 500
"""Of each set, drawn at random where there are more: 20 kernels and 1,000 permutations of 2 x 500 rows take seconds."""

PERMUTATIONS = 1000


class TwoSample(NamedTuple):
    """What the test says.

    Attributes:
        statistic: MMD-FUSE; 0 is what equal distributions give on average.
        p_value: Share of relabellings that give as much, at least 1 / (permutations + 1).
        rows: Of each set that were compared.
    """

    statistic: float
    p_value: float
    rows: tuple[int, int]


def mmd_fuse(first: Vectors, second: Vectors, *, seed: int = 0, permutations: int = PERMUTATIONS) -> TwoSample:
    """The MMD-FUSE test: a soft maximum of normalised MMDs over Laplace and Gaussian kernels, by permutations.

    Source: Biggs, Schrab & Gretton 2023, "MMD-FUSE: Learning and Combining Kernels for Two-Sample Testing Without Data
    Splitting", NeurIPS, equations 4 and 5; kernels as in section 5. Its level is exact: rows are only relabelled.

    Args:
        first: `(rows, dimension)`, at least 2 rows.
        second: `(rows, dimension)`, at least 2 rows.
        seed: Of the rows and the permutations: the same rows give the same answer.
        permutations: More give smaller p-values.
    """
    rng = np.random.default_rng(seed)
    x, y = (_some(vectors, rng) for vectors in (first, second))
    n, m = len(x), len(y)
    labels = np.zeros((permutations + 1, n + m), dtype=np.float32)
    labels[0, :n] = 1.0
    for number in range(1, permutations + 1):
        labels[number, rng.permutation(n + m)[:n]] = 1.0
    smaller = min(n, m)
    temperature = np.sqrt(smaller * (smaller - 1))
    scaled = np.array([temperature * _normalised_mmd(kernel, labels, n) for kernel in _kernels(np.concatenate([x, y]))])
    top = scaled.max(axis=0)
    fused = (top + np.log(np.exp(scaled - top).mean(axis=0))) / temperature
    return TwoSample(float(fused[0]), float((fused >= fused[0]).mean()), (n, m))


def _some(vectors: Vectors, rng: np.random.Generator) -> Vectors:
    return vectors if len(vectors) <= MOST_ROWS else vectors[rng.choice(len(vectors), MOST_ROWS, replace=False)]


def _kernels(rows: Vectors) -> Iterator[Vectors]:
    """Kernel matrices of all bandwidths, zero on the diagonal, one after the other: all at once are 80 MB."""
    from scipy.spatial.distance import cdist

    for metric, kernel in (
        ("cityblock", lambda distance, width: np.exp(-distance / width)),
        ("euclidean", lambda distance, width: np.exp(-((distance / width) ** 2) / 2.0)),
    ):
        distances = cdist(rows, rows, metric).astype(np.float32)
        apart = distances[np.triu_indices(len(rows), 1)]
        low, high = np.quantile(apart[apart > 0] if (apart > 0).any() else np.ones(1), (0.05, 0.95))
        for width in np.linspace(low / 2, high * 2, BANDWIDTHS):
            values = kernel(distances, width)
            np.fill_diagonal(values, 0.0)
            yield values


def _normalised_mmd(kernel: Vectors, labels: Vectors, n: int) -> Floats:
    """Unbiased squared MMD over the kernel's root mean square, for each labelling: `(labellings,)`."""
    rows = len(kernel)
    m = rows - n
    within = np.einsum("ij,ij->i", labels @ kernel, labels, dtype=np.float64)
    across = (labels @ kernel.sum(axis=1)).astype(np.float64) - within
    others = float(kernel.sum(dtype=np.float64)) - within - 2.0 * across
    squared = within / (n * (n - 1)) + others / (m * (m - 1)) - 2.0 * across / (n * m)
    scale = np.sqrt(float((kernel.astype(np.float64) ** 2).sum()) / (rows * (rows - 1)))
    return np.asarray(squared / max(scale, 1e-12))
