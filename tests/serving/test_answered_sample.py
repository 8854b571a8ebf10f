"""The champion's answers out of the log: a fair sample, in order, between two moments."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from logged_rows import interaction, put_in

from finetune_platform.lake import Lake
from finetune_platform.serving.answered_sample import Answered, answered_days
from finetune_platform.serving.interactions import Sampler
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def sample(*asked: Any) -> list[Answered]:
    return [row for day in answered_days(*asked) for row in day]


@pytest.fixture
def task(task_file: Any) -> Task:
    return load_task(task_file(name="topics", serving={"log_share": 0.5}))


def in_sample(task: Task, wanted: bool = True) -> list[int]:
    sampler = Sampler(task.name, task.serving.log_share)
    return [n for n in range(40) if (sampler.reason(f"in-{n}", "champion") == "share") == wanted]


def test_rows_between_two_moments_in_their_order(lake: Lake, task: Task) -> None:
    numbers = in_sample(task)[:5]
    for place, number in enumerate(reversed(numbers)):
        put_in(lake, interaction(number, timestamp=NOON - timedelta(hours=12 * place)))
    found = sample(lake, task, "ad-1", NOON - timedelta(hours=36), NOON - timedelta(hours=12))
    assert [row.interaction_id for row in found] == [f"in-{numbers[2]}", f"in-{numbers[3]}"]
    assert found[0].timestamp == NOON - timedelta(hours=24)
    assert (found[0].question, found[0].answer) == (f"My card was declined, case {numbers[2]}.", "card")


def test_errors_are_given_at_the_rate_of_other_answers(lake: Lake, task: Task) -> None:
    inside, outside = in_sample(task)[0], in_sample(task, wanted=False)[0]
    for number in (inside, outside):
        put_in(lake, interaction(number, timestamp=NOON, error="502", response=None, sampled_because="error"))
    found = sample(lake, task, "ad-1", NOON - timedelta(hours=1), NOON)
    assert [(row.interaction_id, row.failed, row.answer) for row in found] == [(f"in-{inside}", True, None)]


def test_only_the_champions_own_answers(lake: Lake, task: Task) -> None:
    canary, shadow, other, own = in_sample(task)[:4]
    put_in(
        lake,
        interaction(canary, timestamp=NOON, arm="canary", adapter_id="ad-1"),
        interaction(shadow, timestamp=NOON, arm="shadow", adapter_id="ad-1"),
        interaction(other, timestamp=NOON, adapter_id="ad-2"),
        interaction(own, timestamp=NOON),
    )
    found = sample(lake, task, "ad-1", NOON - timedelta(1), NOON)
    assert [row.interaction_id for row in found] == [f"in-{own}"]


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "c"}, {"role": "tool", "content": "t"}], "c"),
        ([{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image_url"}]}], "one"),
        ([{"role": "system", "content": "s"}], ""),
    ],
)
def test_the_question_is_the_last_user_message(lake: Lake, task: Task, messages: list[Any], question: str) -> None:
    put_in(lake, interaction(in_sample(task)[0], timestamp=NOON, request={"messages": messages}))
    assert sample(lake, task, "ad-1", NOON - timedelta(1), NOON)[0].question == question


def test_nothing_was_logged_yet(lake: Lake, task: Task) -> None:
    assert sample(lake, task, "ad-1", NOON - timedelta(1), NOON) == []
