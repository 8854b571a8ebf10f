"""Rows that differ from each other and from what is chosen already. Which rows come into question is the caller's."""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def spread(vectors: Vectors, chosen: Vectors, count: int, rng: np.random.Generator) -> list[int]:
    """Numbers of `count` rows, drawn one after another with probability as the squared distance to the nearest chosen.

    Far rows are likely, but a single strange one is not certain. Source: Arthur & Vassilvitskii 2007, "k-means++: the
    advantages of careful seeding".

    Args:
        vectors: Of length one, `(rows, dimension)`.
        chosen: Of what is chosen before, `(any, dimension)`.
        count: Of rows to draw, at most `len(vectors)`.
    """
    far = 2.0 - 2.0 * (vectors @ chosen.T).max(axis=1, initial=-1.0).astype(np.float64)
    drawn: list[int] = []
    for _ in range(count):
        far[drawn] = 0.0
        weights = np.clip(far, 0.0, None)
        if weights.sum() <= 0.0:
            # All that is left equals something chosen: any of it will do.
            weights = np.ones(len(vectors))
            weights[drawn] = 0.0
        number = int(rng.choice(len(vectors), p=weights / weights.sum()))
        drawn.append(number)
        far = np.minimum(far, 2.0 - 2.0 * (vectors @ vectors[number]))
    return drawn
