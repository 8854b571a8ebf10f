"""Which rows are shown side by side, and what is marked in them."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_chain import Chain

from finetune_platform.evaluation.arms import candidate_arm, champion_arm
from finetune_platform.evaluation.evidence import Segment
from finetune_platform.evaluation.examples import choose, compare, rival_of, side_by_side
from finetune_platform.evaluation.metrics import build_metrics
from finetune_platform.evaluation.scores import Scores, build_scores
from finetune_platform.task import EntityFormat, Task

SPELLING = EntityFormat(types=["PERSON"], empty="none")


def scores_of(task: Task, golds: Sequence[str], **answers: Sequence[str]) -> Scores:
    rows = [str(i) for i in range(len(golds))]
    strata = {"task_type": [""] * len(golds), "difficulty": [""] * len(golds)}
    return build_scores(build_metrics(task.evaluation), answers, golds, rows, strata)


def plain(segments: list[Segment]) -> list[tuple[str, str]]:
    return [(s.kind, s.text) for s in segments]


def test_regressions_come_first_then_improvements_then_chance(task: Task) -> None:
    golds = ["[Joe - PERSON]"] * 30
    candidate = ["none"] * 3 + ["[Joe - PERSON]"] * 27
    rival = ["[Joe - PERSON]"] * 25 + ["none"] * 5
    chosen, how = choose(scores_of(task, golds, candidate=candidate, champion=rival), "entity_f1", "champion", 20)
    assert [why for _, why in chosen] == ["worse"] * 3 + ["better"] * 5 + ["random"] * 12
    assert {i for i, why in chosen if why == "worse"} == {0, 1, 2}
    assert len({i for i, _ in chosen}) == 20
    assert "3 of the 3 rows" in how and "5 of the 5" in how and "12 at random" in how
    assert choose(scores_of(task, golds, candidate=candidate, champion=rival), "entity_f1", "champion", 20)[0] == chosen


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_no_more_rows_than_asked_for_or_there_are(task: Task, count: int) -> None:
    golds = ["none", "[Joe - PERSON]"] * 5
    chosen, _ = choose(scores_of(task, golds, candidate=golds[::-1], champion=golds), "entity_f1", "champion", count)
    assert len(chosen) == min(count, 10)


def test_the_rival_is_the_champion_or_else_the_best_baseline(task: Task) -> None:
    golds = ["none", "[Joe - PERSON]"] * 5
    poor = ["x"] * 10
    assert rival_of(scores_of(task, golds, candidate=poor, champion=poor, prompted=golds), "entity_f1") == "champion"
    assert rival_of(scores_of(task, golds, candidate=poor, trivial=poor, prompted=golds), "entity_f1") == "prompted"


def test_entities_too_many_and_missing_are_told_apart() -> None:
    segments = compare("[Joe - PERSON, Joe - PERSON, Al - PERSON]", "[Joe - PERSON, Eve - PERSON]", SPELLING)
    assert plain(segments) == [
        ("same", "Joe - PERSON"),
        ("extra", "Joe - PERSON"),
        ("extra", "Al - PERSON"),
        ("missing", "Eve - PERSON"),
    ]


def test_words_too_many_and_missing_are_told_apart() -> None:
    assert plain(compare("refund the order now", "cancel the order", None)) == [
        ("missing", "cancel"),
        ("extra", "refund"),
        ("same", " the order"),
        ("extra", " now"),
    ]


@settings(max_examples=50)
@given(st.text(max_size=40), st.text(max_size=40))
def test_the_marked_text_spells_answer_and_gold(answer: str, gold: str) -> None:
    segments = compare(answer, gold, None)
    kept = "".join(s.text for s in segments if s.kind != "missing")
    wanted = "".join(s.text for s in segments if s.kind != "extra")
    assert (kept, wanted) == (answer, gold)


def test_long_answers_are_cut_and_say_so(task: Task, chain: Chain) -> None:
    rows = chain.test[:2]
    answers = {"candidate": ["x" * 5000, "none"], "champion": ["none", "none"]}
    scores = scores_of(task, [r.answer for r in rows], **answers)
    arms = [candidate_arm(chain.training(), chain.folder), champion_arm(chain.champion(), chain.folder)]
    shown = side_by_side(rows, arms, answers, scores, "entity_f1", SPELLING, [(0, "worse"), (1, "random")])
    assert [a.arm for a in shown[0].answers] == ["candidate", "champion"]
    assert shown[0].answers[0].text.endswith("(3,500 more characters)")
    assert shown[1].answers[0].text == "none"
