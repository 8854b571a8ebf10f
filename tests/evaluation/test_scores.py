"""Estimates over many rows: values, strata, near-duplicates, and what cannot be measured."""

import time

import numpy as np
import pytest

from finetune_platform.evaluation.metrics import build_metrics
from finetune_platform.evaluation.scores import Scores, build_scores
from finetune_platform.task import Evaluation

METRICS = build_metrics(
    Evaluation.model_validate(
        {
            "metrics": ["entity_f1", "exact_match", "token_f1"],
            "entities": {"types": ["PERSON"], "empty": "none"},
        }
    )
)
GOLD = ["[Joe - PERSON]", "none"] * 30


def scores_of(candidate: list[str], reference: list[str], groups: list[str] | None = None) -> Scores:
    return build_scores(
        METRICS,
        {"candidate": candidate, "prompted": reference},
        GOLD,
        groups or [str(i) for i in range(len(GOLD))],
        {"task_type": ["filled", "empty"] * 30, "difficulty": ["short"] * 60},
    )


def test_values_are_what_the_definitions_say() -> None:
    part = scores_of(["[Joe - PERSON]"] * 60, GOLD).part("all")
    assert part.value("candidate", "exact_match") == 0.5
    assert part.value("candidate", "entity_f1") == pytest.approx(2 * 30 / (2 * 30 + 30))
    assert part.value("prompted", "entity_f1") == 1.0
    assert part.best(["candidate", "prompted"], "entity_f1") == "prompted"


def test_strata_are_measured_apart() -> None:
    scores = scores_of(["[Joe - PERSON]"] * 60, GOLD)
    assert scores.slice_names() == ["all", "task_type=empty", "task_type=filled"]
    assert scores.part("task_type=filled").level("candidate", "exact_match", 0.05).value == 1.0
    assert scores.part("task_type=empty").level("candidate", "exact_match", 0.05).value == 0.0


def test_entity_f1_of_rows_without_entities_is_not_a_number() -> None:
    part = scores_of(["[Joe - PERSON]"] * 60, GOLD).part("task_type=empty")
    assert not part.level("candidate", "entity_f1", 0.05).defined
    assert not part.difference("candidate", "prompted", "entity_f1", 0.05).defined


@pytest.mark.parametrize("metric", ["entity_f1", "exact_match", "token_f1"])
def test_equal_arms_leave_room_for_a_difference_nobody_saw(metric: str) -> None:
    estimate = scores_of(GOLD, GOLD).part("all").difference("candidate", "prompted", metric, 0.05)
    assert estimate.value == 0.0
    assert -0.15 < estimate.lower < 0 < estimate.upper < 0.15


@pytest.mark.parametrize("metric", ["entity_f1", "exact_match", "token_f1"])
def test_swapping_arms_turns_the_difference_round(metric: str) -> None:
    one = [g if i % 3 else "none" for i, g in enumerate(GOLD)]
    other = [g if i % 4 else "[Al - PERSON]" for i, g in enumerate(GOLD)]
    forth = scores_of(one, other).part("all").difference("candidate", "prompted", metric, 0.05)
    back = scores_of(other, one).part("all").difference("candidate", "prompted", metric, 0.05)
    assert (forth.value, forth.lower, forth.upper) == pytest.approx((-back.value, -back.upper, -back.lower), abs=0.01)


@pytest.mark.parametrize("metric", ["entity_f1", "exact_match", "token_f1"])
def test_copies_of_rows_do_not_narrow_an_interval(metric: str) -> None:
    candidate = [g if i % 5 > 1 else "none" for i, g in enumerate(GOLD)]
    six_copies = [str(i % 10) for i in range(60)]
    width = {}
    for name, groups in (("apart", None), ("together", six_copies)):
        estimate = (
            scores_of(candidate, ["none"] * 60, groups).part("all").difference("candidate", "prompted", metric, 0.05)
        )
        width[name] = estimate.upper - estimate.lower
    assert width["together"] > 1.5 * width["apart"]


def test_intervals_of_a_whole_report_take_seconds() -> None:
    generator = np.random.default_rng(0)
    shape = (230, 5, 5)
    metrics = {f"m{i}": METRICS[0] for i in range(5)}
    names = tuple("abcde")
    rows = np.array([str(i) for i in range(230)])
    scores = Scores(metrics, names, generator.random(shape), np.ones(shape), np.ones((230, 5)), rows, {})
    started = time.process_time()
    part = scores.part("all")
    for metric in metrics:
        for arm in names[1:]:
            part.difference("a", arm, metric, 0.05)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("metric", ["entity_f1", "exact_match", "token_f1"])
def test_a_handful_of_rows_breaks_nothing(metric: str, rows: int) -> None:
    candidate, reference = ["[Joe - PERSON]", "none", "[Al - PERSON]"][:rows], ["none", "x", "[Joe - PERSON]"][:rows]
    strata = {"task_type": [""] * rows, "difficulty": [""] * rows}
    names = [str(i) for i in range(rows)]
    scores = build_scores(METRICS, {"candidate": candidate, "prompted": reference}, GOLD[:rows], names, strata)
    part = scores.part("all")
    for estimate in (part.level("candidate", metric, 0.05), part.difference("candidate", "prompted", metric, 0.05)):
        assert not estimate.lower > estimate.upper
    assert part.difference("candidate", "candidate", metric, 0.05).value == 0.0
