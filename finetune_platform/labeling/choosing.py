"""Which rows of traffic experts see: random ones, which measure, hard ones and novel ones, which teach.

How hard a row is, is said in `hardness.py`; how novel, by whoever raised the alarm. What becomes of the chosen rows
belongs in `composing.py`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finetune_platform.labeling.items import Selection
from finetune_platform.labeling.sampling import proportional
from finetune_platform.labeling.spread import Vectors, spread
from finetune_platform.repeats import counted
from finetune_platform.rows import Message
from finetune_platform.task_labeling import Labeling

POOL, MOST = 5, 1 / 3
"""Hard and novel rows are drawn of so many times as many, the highest scores, and of no more than this share of what is
left: few candidates would else be spread over rows that are not hard at all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A row of traffic that experts may be asked about.

    Attributes:
        messages: What the model was asked, without the system prompt.
        suggestion: What it answered; None where it answered nothing.
        adapter_id: Who answered.
        question: The text that `vector` is of.
        vector: Of length one, `(dimension,)`.
        stratum: A kind of row that the random sample shall hold in proportion.
        session: Empty where the caller named none.
        novelty: How unlike the reference it is, on any scale; None where nobody can say.
        hardness: How likely the answer is wrong, on any scale; None where nobody can say.
    """

    interaction_id: str
    messages: tuple[Message, ...]
    suggestion: str | None
    adapter_id: str
    question: str
    vector: npt.NDArray[np.float32]
    stratum: str = ""
    session: str = ""
    novelty: float | None = None
    hardness: float | None = None


class Chosen(NamedTuple):
    """A row for experts.

    Attributes:
        selection: Which part of the batch chose it: random, novel or hard.
        inclusion_probability: That the random part takes it, in (0, 1]; of rows that another part chose too.
        score: Its novelty or hardness, where that chose it.
    """

    candidate: Candidate
    selection: Selection
    inclusion_probability: float
    score: float | None


def choose(
    candidates: Sequence[Candidate], labeling: Labeling, seed: int, labelled: Collection[str] = ()
) -> list[Chosen]:
    """The rows of a batch: `labeling.budget`, or all where there are no more.

    One row of each session and of each near-duplicate comes into question. The random part is drawn first, of all of
    them, every row with the same probability: an average over it needs no weights and speaks for all. Of the rest novel
    rows come, then hard ones, both spread by k-means++ over those with the highest scores. Where nobody could say how
    novel rows are, or all are as novel, that share goes to hard ones; where hardness is not told, to the random part.
    The same candidates give the same rows, whatever order they come in.

    Args:
        candidates: Traffic, of one adapter or several.
        labeling: The budget and its shares.
        seed: Of all that is drawn.
        labelled: Interactions that experts have labelled before; they do not come again.
    """
    rng = np.random.default_rng(seed)
    rows = _in_question(candidates, labelled, rng)
    if len(rows) <= labeling.budget:
        return [Chosen(row, "random", 1.0, None) for row in rows]
    novelty, hardness = _scores([row.novelty for row in rows]), _scores([row.hardness for row in rows])
    measuring, novel, hard = _shares(labeling, _tell(novelty), _tell(hardness))
    vectors = np.stack([row.vector for row in rows])
    drawn = proportional([row.stratum for row in rows], measuring, rng)
    strange = _highest(novelty, vectors, drawn, novel, rng)
    difficult = _highest(hardness, vectors, [*drawn, *strange], hard, rng)
    probability = measuring / len(rows)
    return [
        *(Chosen(rows[i], "random", probability, None) for i in drawn),
        *(Chosen(rows[i], "novel", probability, _score(novelty[i])) for i in strange),
        *(Chosen(rows[i], "hard", probability, _score(hardness[i])) for i in difficult),
    ]


def _highest(
    scores: npt.NDArray[np.float64], vectors: Vectors, taken: Sequence[int], count: int, rng: np.random.Generator
) -> list[int]:
    """Numbers of `count` rows with high scores that differ from each other and from those taken."""
    left = np.setdiff1d(np.arange(len(scores)), taken)
    scored = int(np.isfinite(scores[left]).sum())
    most = max(count, min(POOL * count, int(MOST * len(left)), scored))
    pool = left[np.argsort(-scores[left], kind="stable")[:most]]
    return [int(pool[i]) for i in spread(vectors[pool], vectors[list(taken)], count, rng)]


def _shares(labeling: Labeling, has_novelty: bool, has_hardness: bool) -> tuple[int, int, int]:
    """How many rows are chosen at random, for novelty and for hardness; together the budget."""
    least = max(1, round(labeling.random_share * labeling.budget))
    novel = min(round(labeling.novel_share * labeling.budget), labeling.budget - least) if has_novelty else 0
    hard = labeling.budget - least - novel if has_hardness else 0
    return labeling.budget - novel - hard, novel, hard


def _in_question(
    candidates: Sequence[Candidate], labelled: Collection[str], rng: np.random.Generator
) -> list[Candidate]:
    """Rows that count, of those that nobody has labelled.

    Of rows that are alike, and of a session, one is taken at random: the first would always be a session's opening.
    """
    known = set(labelled)
    rows = sorted((row for row in candidates if row.interaction_id not in known), key=lambda row: row.interaction_id)
    rows = [rows[i] for i in rng.permutation(len(rows))]
    if not rows:
        return []
    return [rows[i] for i in counted(rows, np.stack([row.vector for row in rows]))]


def _scores(said: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """Scores as numbers; what nobody could say ranks last."""
    values = np.array([-np.inf if score is None else score for score in said], dtype=np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


def _tell(scores: npt.NDArray[np.float64]) -> bool:
    """Whether scores tell rows apart."""
    return bool(scores.min() < scores.max())


def _score(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
