"""Chosen rows as people see them."""

from collections import Counter

from finetune_platform.labeling.choosing import Candidate, Chosen, choose
from finetune_platform.labeling.composing import Gold, items_of
from finetune_platform.rows import Message
from finetune_platform.task_labeling import Labeling
from tests.labeling.test_choosing import candidates

HUNDRED = Labeling(budget=100)
GOLD = [Gold((Message(role="user", content=f"known {i}"),), "card") for i in range(40)]


def batch_of_a_hundred() -> list[Chosen]:
    return choose(candidates(1000), HUNDRED, 0)


def test_shares_of_every_selection_go_to_two_people_or_hide_the_suggestion() -> None:
    rows = items_of(batch_of_a_hundred(), HUNDRED, GOLD, 0, redact=True)
    items = [row.item for row in rows]
    assert Counter(item.selection for item in items) == {"random": 40, "hard": 40, "novel": 20, "gold": 5}
    assert Counter(item.selection for item in items if item.wanted == 2) == {"random": 8, "hard": 8, "novel": 4}
    hiding = Counter(item.selection for item in items if item.hides_suggestion)
    assert hiding == {"random": 4, "hard": 4, "novel": 2}
    assert all(item.shown_suggestion is None for item in items if item.hides_suggestion or item.gold)


def test_nobody_can_tell_from_its_place_why_a_row_was_chosen() -> None:
    rows = items_of(batch_of_a_hundred(), HUNDRED, GOLD, 0, redact=True)
    first = Counter(row.item.selection for row in rows[:52])
    assert 10 < first["random"] < 30 and 10 < first["hard"] < 30
    assert rows == items_of(batch_of_a_hundred(), HUNDRED, GOLD, 0, redact=True)
    assert rows != items_of(batch_of_a_hundred(), HUNDRED, GOLD, 1, redact=True)


def test_what_was_chosen_stands_in_the_item() -> None:
    chosen = {row.candidate.interaction_id: row for row in batch_of_a_hundred()}
    for row in items_of(list(chosen.values()), HUNDRED, GOLD, 0, redact=True):
        if row.interaction_id is None:
            assert row.item.gold == "card" and row.item.inclusion_probability is None and row.item.wanted == 1
            continue
        source = chosen[row.interaction_id]
        assert tuple(row.item.messages) == source.candidate.messages
        assert (row.item.suggestion, row.item.adapter_id) == ("card", "ad-1")
        assert (row.item.stratum, row.item.score) == (source.candidate.stratum, source.score)
        assert row.item.inclusion_probability == 0.04


def test_too_few_gold_rows_all_come_and_without_rows_none() -> None:
    few = items_of(batch_of_a_hundred(), HUNDRED, GOLD[:2], 0, redact=True)
    assert sum(row.item.selection == "gold" for row in few) == 2
    assert len(items_of(batch_of_a_hundred(), HUNDRED, [], 0, redact=True)) == 100
    assert items_of([], HUNDRED, GOLD, 0, redact=True) == []


def test_people_see_no_personal_data_where_the_task_logs_none() -> None:
    mail = "my mail is jane@example.com"
    row = Chosen(with_question(mail), "random", 1.0, None)
    gold = [Gold((Message(role="user", content=mail),), "jane@example.com")]
    items = [r.item for r in items_of([row], HUNDRED, gold, 0, redact=True)]
    assert {item.messages[0].content for item in items} == {"my mail is [EMAIL_1]"}
    assert {item.suggestion or item.gold for item in items} == {"[EMAIL_1]"}
    raw = [r.item for r in items_of([row], HUNDRED, gold, 0, redact=False)]
    assert {item.messages[0].content for item in raw} == {mail}


def with_question(text: str) -> Candidate:
    return candidates(1, messages=(Message(role="user", content=text),), suggestion="jane@example.com")[0]
