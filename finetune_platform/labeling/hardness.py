"""How likely a logged answer is wrong, from nothing but the log and answers that are known to be right.

The log holds no token probabilities. Whoever has them, or a judge's word, gives `Candidate` those instead.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune_platform.labeling.items import comparable
from finetune_platform.labeling.spread import Vectors

NEIGHBOURS = 5
BLOCK = 1024


def doubts(
    vectors: Vectors, answers: Sequence[str | None], known: Vectors, known_answers: Sequence[str]
) -> npt.NDArray[np.float64]:
    """For each answer, how many of the nearest known questions were answered otherwise: in [0, 1], `(rows,)`.

    The five nearest count by their similarity. Answers are compared as they stand: for labels and for extractions, of
    which many are empty or short, this orders wrong before right answers (docs/labels.md has figures). Free texts are
    never the same: all rows have doubt 1 then, which says nothing, and `choose` takes random rows instead.

    Args:
        vectors: Of questions in the log, of length one, `(rows, dimension)`.
        answers: What the model answered them; None where it answered nothing.
        known: Of questions whose answer is known, `(any, dimension)`.
        known_answers: Those answers, as people gave them.

    Source: the disagreement with nearest neighbours of Papernot & McDaniel 2018, "Deep k-nearest neighbors", on
    sentence vectors.
    """
    told = np.array([comparable(answer) for answer in answers], dtype=object)
    right = np.array([comparable(answer) for answer in known_answers], dtype=object)
    count = min(NEIGHBOURS, len(known))
    if not count:
        return np.ones(len(told))
    found = np.empty(len(told))
    for start in range(0, len(told), BLOCK):
        part = slice(start, start + BLOCK)
        similar = vectors[part] @ known.T
        nearest = np.argpartition(similar, -count, axis=1)[:, -count:]
        weights = np.clip(np.take_along_axis(similar, nearest, axis=1).astype(np.float64), 1e-9, None)
        agree = right[nearest] == told[part][:, None]
        found[part] = 1.0 - (weights * agree).sum(axis=1) / weights.sum(axis=1)
    return found
