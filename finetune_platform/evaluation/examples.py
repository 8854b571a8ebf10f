"""Rows to show side by side: which ones, and what each answer has too much or too little.

How they look is in the report's template.
"""

import difflib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from finetune_platform.evaluation.arms import Arm
from finetune_platform.evaluation.entities import Entity, parse_entities
from finetune_platform.evaluation.evidence import ExampleAnswer, Segment, SideBySide
from finetune_platform.evaluation.gates import CANDIDATE
from finetune_platform.evaluation.resampling import SEED
from finetune_platform.evaluation.scores import ALL, Scores
from finetune_platform.rows import Example
from finetune_platform.task import EntityFormat

SHOWN_CHARS = 1500
"""Longer texts are cut in the report; `predictions.parquet` has them whole."""

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def rival_of(scores: Scores, metric: str) -> str | None:
    """The best other arm by `metric`, the champion where there is one."""
    if "champion" in scores.arms:
        return "champion"
    return scores.part(ALL).best([arm for arm in scores.arms if arm != CANDIDATE], metric)


def choose(scores: Scores, metric: str, rival: str, count: int) -> tuple[list[tuple[int, str]], str]:
    """Row numbers with the reason for each, and how they were chosen, in words.

    Two fifths are the rows where the candidate loses most against `rival`, as many where it gains most, the rest
    random; what one kind lacks goes to the next.
    """
    gains = scores.row_scores(CANDIDATE, metric) - scores.row_scores(rival, metric)
    weights = scores.weights(CANDIDATE, metric)  # Of rows equally lost, those with more to find say more.
    order = [int(i) for i in np.lexsort((np.sign(gains) * weights, gains))]
    losses = [i for i in order if gains[i] < 0]
    wins = [i for i in reversed(order) if gains[i] > 0]
    share = (2 * count + 4) // 5
    worse = losses[:share]
    better = wins[: min(share, count - len(worse))]
    left = [i for i in order if i not in {*worse, *better}]
    rest = random.Random(SEED).sample(sorted(left), min(count - len(worse) - len(better), len(left)))
    chosen = [(i, "worse") for i in worse] + [(i, "better") for i in better] + [(i, "random") for i in rest]
    how = (
        f"{len(worse)} of the {len(losses)} rows where the new adapter scores worse than its best rival, "
        f"the worst first; {len(better)} of the {len(wins)} where it scores better, the best first; "
        f"{len(rest)} at random from the others."
    )
    return chosen, how


def side_by_side(
    rows: Sequence[Example],
    arms: Sequence[Arm],
    answers: Mapping[str, Sequence[str]],
    scores: Scores,
    metric: str,
    spelling: EntityFormat | None,
    chosen: Sequence[tuple[int, str]],
) -> list[SideBySide]:
    """The chosen rows with every arm's answer compared to the gold answer.

    Args:
        rows: Of the benchmark.
        arms: In the order shown.
        answers: By arm, one a row.
        scores: Of the same rows.
        metric: Whose score is printed beside each answer.
        spelling: Compare entities, not words, where the task has them.
        chosen: From `choose`.
    """
    points = {arm.name: scores.row_scores(arm.name, metric) for arm in arms}
    return [
        SideBySide(
            example_id=rows[i].example_id,
            why=why,
            strata={f: v for f, v in (("task_type", rows[i].task_type), ("difficulty", rows[i].difficulty)) if v},
            prompt=[{"role": m.role, "content": _cut(m.content or "")} for m in rows[i].prompt],
            gold=_cut(rows[i].answer),
            answers=[
                ExampleAnswer(
                    arm=arm.name,
                    text=_cut(answers[arm.name][i]),
                    score=float(points[arm.name][i]),
                    segments=compare(answers[arm.name][i], rows[i].answer, spelling),
                )
                for arm in arms
            ],
        )
        for i, why in chosen
    ]


def compare(answer: str, gold: str, spelling: EntityFormat | None) -> list[Segment]:
    """An answer as pieces that are right, extra or missing: entities where the task has them, else words."""
    if spelling is not None:
        return _compare_entities(parse_entities(answer, spelling), parse_entities(gold, spelling), spelling)
    ours, theirs = _WORDS.findall(_cut(answer)), _WORDS.findall(_cut(gold))
    segments = []
    matcher = difflib.SequenceMatcher(a=theirs, b=ours, autojunk=False)
    for kind, gold_start, gold_end, start, end in matcher.get_opcodes():
        if kind == "equal":
            segments.append(Segment(kind="same", text="".join(ours[start:end])))
            continue
        if gold_end > gold_start:
            segments.append(Segment(kind="missing", text="".join(theirs[gold_start:gold_end])))
        if end > start:
            segments.append(Segment(kind="extra", text="".join(ours[start:end])))
    return segments


def _compare_entities(ours: list[Entity], theirs: list[Entity], spelling: EntityFormat) -> list[Segment]:
    wanted = Counter(theirs)
    segments = []
    for entity in ours:
        found = wanted[entity] > 0
        wanted[entity] -= found
        segments.append(Segment(kind="same" if found else "extra", text=_spelled(entity, spelling)))
    missing = (+wanted).elements()
    return segments + [Segment(kind="missing", text=_spelled(entity, spelling)) for entity in missing]


def _spelled(entity: Entity, spelling: EntityFormat) -> str:
    return _cut(f"{entity.name}{spelling.type_separator}{entity.type}" if entity.type else entity.name)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]} … ({len(text) - SHOWN_CHARS:,} more characters)"
