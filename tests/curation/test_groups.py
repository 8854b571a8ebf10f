"""Groups: what gives another row away shares its group, and more rows do not rename it."""

import json

import daft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.curation.groups import assign_groups, normalised, prompt_key


def groups_of(pairs: list[tuple[str, str]]) -> list[str]:
    """The group of each (prompt, named group), in order."""
    stored = [json.dumps([{"role": "user", "content": p}, {"role": "assistant", "content": "x"}]) for p, _ in pairs]
    columns = {"messages": stored, "group_id": [g for _, g in pairs], "n": list(range(len(pairs)))}
    rows = daft.from_pydict(columns).with_column("text", daft.lit(None).cast(daft.DataType.string()))
    return list(assign_groups(rows).sort("n").to_pydict()["group_id"])


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Where is order 12?", "where is  ORDER 9876", True),
        ("ﬁne", "fine", True),
        ("under_score", "under score", True),
        ("Where is order 12?", "Where was order 12?", False),
        ("???", "!!!", False),
        ("", " ", False),
    ],
)
def test_normalised_prompts(one: str, other: str, alike: bool) -> None:
    assert (normalised(one) == normalised(other)) is alike
    first, second = groups_of([(one, ""), (other, "")])
    assert (first == second) is alike


def test_system_prompt_and_answer_do_not_part_a_group() -> None:
    user = {"role": "user", "content": "Hi"}
    rows = [
        [user, {"role": "assistant", "content": "a"}],
        [{"role": "system", "content": "Be nice."}, user, {"role": "assistant", "content": "b"}],
    ]
    assert len({prompt_key(json.dumps(row)) for row in rows}) == 1


def test_a_text_is_in_the_group_of_texts_like_it_and_in_no_other() -> None:
    asked = prompt_key(json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}]))
    assert prompt_key("[]", "Hi, 12!") == prompt_key("[]", "hi 7") != prompt_key("[]", "Ho")
    assert prompt_key("[]", "Hi") not in (asked, prompt_key("[]"))


def test_named_groups_and_chains_of_them() -> None:
    a, b, c, d = groups_of([("one", "ann"), ("two", "ann"), ("two", ""), ("three", "bob")])
    assert a == b == c != d
    joined = groups_of([("one", "ann"), ("two", "ann"), ("two", ""), ("three", "bob"), ("one", "bob")])
    assert len(set(joined)) == 1


names = st.sampled_from(["", "", "ann", "bob", "cy"])
prompts = st.sampled_from(["one", "two", "three", "four", "five"])
rows = st.lists(st.tuples(prompts, names), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(rows)
def test_a_group_holds_all_rows_of_a_prompt_and_of_a_name(pairs: list[tuple[str, str]]) -> None:
    groups = groups_of(pairs)
    for key in (0, 1):
        homes: dict[str, set[str]] = {}
        for pair, group in zip(pairs, groups, strict=True):
            if pair[key]:
                homes.setdefault(pair[key], set()).add(group)
        assert all(len(found) == 1 for found in homes.values())


@settings(max_examples=40, deadline=None)
@given(rows, st.lists(st.sampled_from(["six", "seven"]), max_size=3))
def test_new_prompts_in_known_groups_rename_nothing(pairs: list[tuple[str, str]], new: list[str]) -> None:
    more = [(prompt, pairs[0][1]) for prompt in new]
    assert groups_of(pairs + more)[: len(pairs)] == groups_of(pairs)
