"""Metrics as ratios of sums: each gives a row a numerator and a denominator, a corpus value is the ratio of totals.

One shape for all, so that intervals, paired differences, strata and gates need no case for any of them. How an answer
is scored against a gold text is in `text_metrics.py` and `entities.py`; statistics of many rows in `scores.py`.
"""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.evaluation.entities import count_entities
from finetune_platform.evaluation.text_metrics import exact_match, token_f1
from finetune_platform.identity import canonical_json
from finetune_platform.task import EntityFormat, Evaluation
from finetune_platform.user_functions import user_function


class Part(NamedTuple):
    """What one row adds to a metric's two totals. 0/0 adds nothing."""

    numerator: float
    denominator: float

    @property
    def value(self) -> float:
        """The row's own score; 1 where there was nothing to find and nothing was claimed."""
        return self.numerator / self.denominator if self.denominator else 1.0


@dataclass(frozen=True)
class Metric:
    """One way to score answers.

    Attributes:
        name: As in the task file.
        title: As a sentence says it: "entity F1".
        meaning: One sentence for the report.
        binary: Every row scores 0 or 1, so that binomial intervals and tests hold.
        score: From an answer and its gold text to the row's part.
        fingerprint: Changes when the metric's definition does.
    """

    name: str
    title: str
    meaning: str
    binary: bool
    score: Callable[[str, str], Part]
    fingerprint: str


def build_metrics(evaluation: Evaluation) -> list[Metric]:
    """The task's metrics, in the order of the task file.

    Raises:
        BadInput: A custom metric cannot be imported.
    """
    return [_build(name, evaluation) for name in evaluation.metrics]


def _build(name: str, evaluation: Evaluation) -> Metric:
    if name == "exact_match":
        meaning = "Share of answers that equal the gold answer, white space around them apart."
        return Metric(name, "exact match", meaning, True, lambda a, g: Part(exact_match(a, g), 1.0), name)
    if name == "token_f1":
        meaning = "Overlap of the words of answer and gold answer (F1 of the two bags of words), averaged over rows."
        return Metric(name, "token F1", meaning, False, lambda a, g: Part(token_f1(a, g), 1.0), name)
    if name == "entity_f1" and evaluation.entities is not None:
        return _entity_f1(name, evaluation.entities)
    if name == "valid_format" and evaluation.output_pattern is not None:
        return _valid_format(name, evaluation.output_pattern)
    return _custom(name)


def _entity_f1(name: str, spelling: EntityFormat) -> Metric:
    """Micro-averaged: 2·TP / (2·TP + FP + FN) over all rows.

    A macro average would score each row without entities 0 or 1, so that always answering "none" looks good on data
    where half the rows have none. In the micro average such a row adds only what was wrongly claimed.
    """

    def score(answer: str, gold: str) -> Part:
        right, extra, missing = count_entities(answer, gold, spelling)
        return Part(2.0 * right, 2.0 * right + extra + missing)

    meaning = (
        "F1 of (name, type) pairs over all rows together, repetitions counted: 2·right / (2·right + extra + missing)."
    )
    return Metric(name, "entity F1", meaning, False, score, canonical_json(spelling.model_dump()))


def _valid_format(name: str, pattern: str) -> Metric:
    compiled = re.compile(pattern)
    return Metric(
        name,
        "valid format",
        "Share of answers that match the task's output pattern as a whole.",
        True,
        lambda answer, gold: Part(float(compiled.fullmatch(answer.strip()) is not None), 1.0),
        pattern,
    )


def _custom(name: str) -> Metric:
    """A user's `package.module:function(answer, gold) -> float` in [0, 1], averaged over rows."""
    function, source_id = user_function(name, "evaluation.metrics")

    def score(answer: str, gold: str) -> Part:
        value = float(function(answer, gold))
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            problem = f"evaluation.metrics: {name}: returned {value} for {answer[:80]!r}"
            raise BadInput(problem, "return a number from 0 to 1")
        return Part(value, 1.0)

    doc = inspect.getdoc(function) or f"Mean of {name} over rows."
    return Metric(name, name.partition(":")[2].replace("_", " "), doc.splitlines()[0], False, score, source_id)


def score_rows(metrics: Sequence[Metric], answers: Sequence[str], golds: Sequence[str]) -> list[dict[str, Part]]:
    """Every metric of every row.

    Args:
        metrics: What to score.
        answers: One answer a row.
        golds: The gold answers, in the same order.
    """
    return [{m.name: m.score(a, g) for m in metrics} for a, g in zip(answers, golds, strict=True)]
