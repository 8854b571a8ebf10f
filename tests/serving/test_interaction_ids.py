"""Interaction ids say who answered, and nobody can make one up."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.database import Database
from finetune_platform.serving.interaction_ids import LETTERS, Answered, InteractionIds, installation_secret
from finetune_platform.serving.plan import ARMS, BASE, Arm
from finetune_platform.serving.tables import FeedbackRow

IDS = InteractionIds(b"s" * 32)
TASKS = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
ADAPTERS = st.one_of(st.none(), st.from_regex(r"ad-[0-9a-f]{12}", fullmatch=True))


@given(task=TASKS, arm=st.sampled_from(ARMS), adapter=ADAPTERS)
def test_an_id_tells_the_task_the_arm_and_the_adapter(task: str, arm: Arm, adapter: str | None) -> None:
    made = IDS.new(task, arm, adapter)
    assert IDS.read(made, ["another_task", task]) == Answered(task, arm, adapter or BASE)
    assert len(made) <= FeedbackRow.interaction_id.type.length
    assert made != IDS.new(task, arm, adapter)


@given(task=TASKS, other=TASKS, adapter=ADAPTERS)
def test_an_id_of_another_task_or_another_installation_is_not_read(task: str, other: str, adapter: str | None) -> None:
    made = IDS.new(task, "canary", adapter)
    assert IDS.read(made, [] if task == other else [other]) is None
    assert InteractionIds(b"t" * 32).read(made, [task]) is None


@given(
    adapter=ADAPTERS,
    position=st.integers(0, 100),
    character=st.one_of(st.sampled_from("0123456789abcdefcks-"), st.characters(codec="utf-8")),
    insert=st.booleans(),
)
def test_an_edited_id_is_not_read(adapter: str | None, position: int, character: str, insert: bool) -> None:
    made = IDS.new("topics", "champion", adapter)
    place = position % len(made)
    edited = made[:place] + character + made[place if insert else place + 1 :]
    if edited != made:
        assert IDS.read(edited, ["topics"]) is None


@given(text=st.one_of(st.text(), st.from_regex(r"in-[cksbtf]-[0-9a-f]{4}-[0-9a-f]{16}-[0-9a-f]{16}")))
def test_a_made_up_id_is_not_read(text: str) -> None:
    assert IDS.read(text, ["topics"]) is None


def test_no_two_arms_share_a_letter() -> None:
    assert set(LETTERS) == set(ARMS) and len(set(LETTERS.values())) == len(ARMS)


def test_all_gateways_of_an_installation_share_one_secret(database: Database, database_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: installation_secret(database), range(8)))
    (secret,) = found
    assert len(secret) == 32
    again = Database(database_url)
    assert installation_secret(again) == secret
    assert installation_secret(again, "another") != secret
    again.close()


@pytest.mark.parametrize("seal", ["", "\ud800", "é" * 16])
def test_a_seal_of_strange_characters_is_no_error(seal: str) -> None:
    head = IDS.new("topics", "base", None).rpartition("-")[0]
    assert IDS.read(f"{head}-{seal}", ["topics"]) is None
