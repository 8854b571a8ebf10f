"""What the strange rows are about: groups of them, with their words and the rows that stand for them best."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune_platform.drift.null_bounds import Ints, Vectors

LEAST_ROWS = 10
"""Fewer rows are not divided."""

MOST_CLUSTERS = 6
LEAST_SILHOUETTE = 0.05
"""Below it the rows fall into no groups, and are shown as one."""

EXAMPLES = 5


class Cluster(NamedTuple):
    """Some of the rows that were given.

    Attributes:
        rows: Their numbers.
        examples: Numbers of those nearest to the centre, each with another text.
    """

    rows: list[int]
    examples: list[int]


def clusters_of(vectors: Vectors, texts: Sequence[str]) -> list[Cluster]:
    """Groups of rows that are alike, the largest first; the same for the same rows.

    k-means with the k that has the best mean silhouette (Rousseeuw 1987, J. Comput. Appl. Math. 20:53).

    Args:
        vectors: Of length one, `(rows, dimension)`.
        texts: Of these rows.
    """
    if not len(vectors):
        return []
    groups = _groups(vectors)
    found = []
    for group in range(int(groups.max()) + 1):
        rows = np.flatnonzero(groups == group)
        centre = vectors[rows].mean(axis=0)
        nearest = rows[np.argsort(-(vectors[rows] @ centre), kind="stable")]
        by_text = {texts[row].strip(): int(row) for row in nearest[::-1]}
        examples = [int(row) for row in nearest if by_text[texts[row].strip()] == row][:EXAMPLES]
        found.append(Cluster(rows.tolist(), examples))
    return sorted(found, key=lambda cluster: (-len(cluster.rows), cluster.rows))


def _groups(vectors: Vectors) -> Ints:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    best, chosen = LEAST_SILHOUETTE, np.zeros(len(vectors), dtype=np.int64)
    if len(vectors) < LEAST_ROWS:
        return chosen
    for k in range(2, min(MOST_CLUSTERS, len(vectors) // 5, len(np.unique(vectors, axis=0)) - 1) + 1):
        groups = KMeans(k, n_init=5, random_state=0).fit_predict(vectors)
        score = float(silhouette_score(vectors, groups, metric="cosine"))
        if score > best:
            best, chosen = score, groups.astype(np.int64)
    return chosen
