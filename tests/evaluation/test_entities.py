"""Reading entities out of answers, however badly a model spells them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.evaluation.entities import Entity, count_entities, parse_entities
from finetune_platform.task import EntityFormat

SPELLING = EntityFormat(types=["PERSON", "ORGANIZATION", "LOCATION"], empty="No entities found")

names = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)
entities = st.lists(st.builds(Entity, names, st.sampled_from(SPELLING.types)), max_size=6)
spellings = st.builds(
    EntityFormat,
    opening=st.sampled_from(["[", "", "<<"]),
    closing=st.sampled_from(["]", "", ">>"]),
    item_separator=st.sampled_from([", ", ";", ""]),
    type_separator=st.sampled_from([" - ", ":", ""]),
    types=st.just(["PERSON"]),
    empty=st.sampled_from(["", "none"]),
)


def spell(found: list[Entity]) -> str:
    return f"[{', '.join(f'{e.name} - {e.type}' for e in found)}]" if found else SPELLING.empty


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No entities found", []),
        ("", []),
        ("[]", []),
        ("[Bank - ORGANIZATION, Bank - ORGANIZATION]", [("Bank", "ORGANIZATION")] * 2),
        ("[Coca - Cola - ORGANIZATION]", [("Coca - Cola", "ORGANIZATION")]),
        ("[Smith, Jr. - PERSON, Rome - LOCATION]", [("Smith, Jr.", "PERSON"), ("Rome", "LOCATION")]),
        ("[Deed [A] - ORGANIZATION]", [("Deed [A]", "ORGANIZATION")]),
        ("Thinking: [x - PERSON]. My final answer is [Rome - LOCATION].", [("Rome", "LOCATION")]),
        ("[Rome - LOCATION, Par", [("Rome", "LOCATION"), ("Par", "")]),
        ("Sure! The answer:\nRome - LOCATION\nJoe - PERSON", [("Rome", "LOCATION"), ("Joe", "PERSON")]),
        ("There is a bank - it is large", []),
        ("[Bank  of\nRome - ORGANIZATION]", [("Bank of Rome", "ORGANIZATION")]),
    ],
)
def test_known_answers(text: str, expected: list[tuple[str, str]]) -> None:
    assert parse_entities(text, SPELLING) == [Entity(*e) for e in expected]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[Rome - LOCATION, Joe - PERSON, Joe - PERSON]", (3, 0, 0)),
        ("[Joe - PERSON, Rome - LOCATION]", (2, 0, 1)),
        ("[Joe - ORGANIZATION, Rome - LOCATION]", (1, 1, 2)),
        ("No entities found", (0, 0, 3)),
    ],
)
def test_repetitions_and_types_count_and_order_does_not(answer: str, expected: tuple[int, int, int]) -> None:
    assert count_entities(answer, "[Joe - PERSON, Joe - PERSON, Rome - LOCATION]", SPELLING) == expected


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("[]<>,;-: \nabPERSON"), max_size=60) | st.text(max_size=60), spellings)
def test_no_text_and_no_spelling_breaks_the_parser(text: str, spelling: EntityFormat) -> None:
    for entity in parse_entities(text, spelling):
        assert entity.name or entity.type


@settings(max_examples=100)
@given(entities)
def test_what_is_spelled_correctly_is_read_back(found: list[Entity]) -> None:
    assert parse_entities(spell(found), SPELLING) == found


@settings(max_examples=100)
@given(entities, entities)
def test_counts_are_symmetric_and_perfect_on_identical_answers(one: list[Entity], other: list[Entity]) -> None:
    right, extra, missing = count_entities(spell(one), spell(other), SPELLING)
    assert count_entities(spell(other), spell(one), SPELLING) == (right, missing, extra)
    assert count_entities(spell(one), spell(one), SPELLING) == (len(one), 0, 0)
