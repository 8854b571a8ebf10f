"""Which rows of traffic experts see."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.labeling.choosing import POOL, Candidate, Chosen, choose
from finetune_platform.labeling.sampling import proportional
from finetune_platform.labeling.spread import Vectors, spread
from finetune_platform.rows import Message
from finetune_platform.task_labeling import Labeling

TWENTY = Labeling(budget=20)


def directions(rows: int, dimension: int = 16, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def candidates(count: int, **fields: Any) -> list[Candidate]:
    """Rows of two strata, one of them a fifth; the later, the more novel; the earlier, the harder."""
    vectors = directions(count)
    return [
        Candidate(
            **{
                "interaction_id": f"in-{i:04}",
                "messages": (Message(role="user", content=f"question {i}"),),
                "suggestion": "card",
                "adapter_id": "ad-1",
                "question": f"question {i}",
                "vector": vectors[i],
                "stratum": "de" if i % 5 == 0 else "en",
                "novelty": i / count,
                "hardness": 1 - i / count,
                **fields,
            }
        )
        for i in range(count)
    ]


def ids(chosen: list[Chosen]) -> list[str]:
    return [row.candidate.interaction_id for row in chosen]


def selected(chosen: list[Chosen]) -> Counter[str]:
    return Counter(row.selection for row in chosen)


def test_a_batch_has_its_shares_and_says_why_each_row_was_chosen() -> None:
    chosen = choose(candidates(200), TWENTY, seed=1)
    assert selected(chosen) == {"random": 8, "hard": 8, "novel": 4}
    assert len(set(ids(chosen))) == 20
    assert {row.inclusion_probability for row in chosen} == {8 / 200}
    assert [row.score for row in chosen if row.selection == "random"] == [None] * 8
    novel = [row.score for row in chosen if row.selection == "novel"]
    assert all(score is not None and score >= 1 - (4 * POOL + 9) / 200 for score in novel)
    hard = [row.score for row in chosen if row.selection == "hard"]
    assert all(score is not None and score >= 1 - (8 * POOL + 13) / 200 for score in hard)


def test_the_random_part_holds_each_stratum_in_proportion() -> None:
    rows = candidates(200)
    for seed in range(20):
        drawn = [row.candidate.stratum for row in choose(rows, TWENTY, seed) if row.selection == "random"]
        assert Counter(drawn)["de"] in (1, 2)


def test_the_random_part_measures_without_bias_whatever_the_other_parts_choose() -> None:
    rows = candidates(200)
    truth = np.mean([is_wrong(row) for row in rows])
    weighted, unweighted = [], []
    for seed in range(400):
        chosen = choose(rows, TWENTY, seed)
        measured = [row for row in chosen if row.selection == "random"]
        weighted.append(sum(is_wrong(row.candidate) / row.inclusion_probability for row in measured) / len(rows))
        unweighted.append(np.mean([is_wrong(row.candidate) for row in chosen]))
    error = np.std(weighted) / np.sqrt(len(weighted))
    assert abs(np.mean(weighted) - truth) < 3 * error
    assert np.mean(unweighted) > truth + 10 * error


def is_wrong(row: Candidate) -> bool:
    """Hard rows and rows of the small stratum more often."""
    return row.hardness is not None and row.hardness > (0.5 if row.stratum == "de" else 0.8)


def test_the_same_candidates_in_another_order_give_the_same_rows_and_another_seed_others() -> None:
    rows = candidates(200)
    assert ids(choose(rows, TWENTY, 1)) == ids(choose(rows[::-1], TWENTY, 1))
    assert ids(choose(rows, TWENTY, 1)) != ids(choose(rows, TWENTY, 2))


def test_with_no_more_rows_than_the_budget_all_are_measured() -> None:
    chosen = choose(candidates(20), TWENTY, 0)
    assert len(chosen) == 20 and selected(chosen) == {"random": 20}
    assert {row.inclusion_probability for row in chosen} == {1.0}
    assert choose([], TWENTY, 0) == []


def test_labelled_rows_and_repeats_do_not_come() -> None:
    rows = candidates(100)
    labelled = {row.interaction_id for row in rows[:50]}
    assert not labelled & set(ids(choose(rows, TWENTY, 0, labelled)))
    alike = [replace(row, vector=rows[0].vector) for row in rows]
    assert len(choose(alike, TWENTY, 0)) == 1
    told_twice = [replace(row, question=f"Question {i // 2}!") for i, row in enumerate(rows)]
    assert len({row.candidate.question for row in choose(told_twice, TWENTY, 0)}) == 20


def test_a_session_gives_one_row_and_not_always_its_first() -> None:
    rows = [replace(row, session=f"s{i // 10}") for i, row in enumerate(candidates(150))]
    turns = set()
    for seed in range(10):
        chosen = choose(rows, TWENTY, seed)
        assert len({row.candidate.session for row in chosen}) == len(chosen) == 15
        turns |= {int(row.candidate.interaction_id[3:]) % 10 for row in chosen}
    assert len(turns) > 5


@pytest.mark.parametrize("unknown", [None, float("nan"), float("inf"), 1.0])
def test_what_nobody_can_score_as_novel_goes_to_hard_rows_and_what_is_not_hard_to_the_random_part(
    unknown: float | None,
) -> None:
    neither = choose(candidates(200, novelty=unknown, hardness=unknown), TWENTY, 0)
    assert selected(neither) == {"random": 20} and neither[0].inclusion_probability == 20 / 200
    assert selected(choose(candidates(200, hardness=unknown), TWENTY, 0)) == {"random": 16, "novel": 4}
    assert selected(choose(candidates(200, novelty=unknown), TWENTY, 0)) == {"random": 8, "hard": 12}


def test_rows_without_a_score_come_after_those_that_have_one() -> None:
    rows = [replace(row, novelty=None if i < 198 else 0.1) for i, row in enumerate(candidates(200))]
    chosen = choose(rows, Labeling(budget=20, random_share=0.05), 0)
    assert {row.score for row in chosen if row.selection == "novel"} == {0.1, None}


def test_of_few_rows_hard_ones_come_still() -> None:
    chosen = choose(candidates(30), TWENTY, 0)
    hard = [row.score for row in chosen if row.selection == "hard"]
    assert all(score is not None and score > 0.3 for score in hard)


scores = st.none() | st.floats()
any_rows = st.lists(st.tuples(scores, scores, st.sampled_from("abc"), st.integers(0, 30)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(any_rows, st.integers(10, 40), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 5))
def test_whatever_comes_the_budget_is_met_and_nothing_comes_twice(
    said: list[tuple[float | None, float | None, str, int]], budget: int, random: float, novel: float, seed: int
) -> None:
    vectors = directions(31)
    rows = [
        replace(row, novelty=n, hardness=h, stratum=s, vector=vectors[v])
        for row, (n, h, s, v) in zip(candidates(len(said)), said, strict=True)
    ]
    labeling = Labeling(budget=budget, random_share=random, novel_share=min(novel, 1 - random))
    chosen = choose(rows, labeling, seed)
    assert len(chosen) == min(budget, len({v for *_, v in said}))
    assert len(set(ids(chosen))) == len(chosen)
    assert all(0 < row.inclusion_probability <= 1 for row in chosen)
    assert not chosen or selected(chosen)["random"] > 0
    assert all(row.score is None or np.isfinite(row.score) for row in chosen)


def test_every_row_is_as_likely_as_any_other_also_those_of_rare_strata() -> None:
    strata = ["a"] * 30 + ["b"] * 3 + ["c"]
    times = np.zeros(len(strata))
    for seed in range(3000):
        drawn = proportional(strata, 7, np.random.default_rng(seed))
        assert len(set(drawn)) == 7
        times[drawn] += 1
    assert times / 3000 == pytest.approx(7 / len(strata), abs=0.04)


def test_spread_rows_cover_the_kinds_that_are_not_covered_yet() -> None:
    centres = np.eye(8, dtype=np.float32)
    vectors = np.repeat(centres, [50, 50, 50, 5, 5, 5, 5, 5], axis=0)
    drawn = spread(vectors, centres[:3], 5, np.random.default_rng(0))
    assert {int(vectors[i].argmax()) for i in drawn} == {3, 4, 5, 6, 7}
    assert len(set(spread(vectors[:50], centres[:1], 20, np.random.default_rng(0)))) == 20
