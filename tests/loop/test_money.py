"""What a month of a cycle has cost, and what its adapter returns."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from past_events import a_training, an_evaluation
from review_batches import TASK, a_batch, item, say

from finetune_platform.database import Database
from finetune_platform.drift.measured import Kind, Measurement, keep_measurements, measure_anew
from finetune_platform.labeling.answering import Annotation, annotate
from finetune_platform.labeling.retraining import permit
from finetune_platform.lake import Lake
from finetune_platform.loop.money import return_of, spent_of
from finetune_platform.manifests_training import SearchRecord
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

NOW = datetime.now(UTC)
JUDGE = {"scorer": "json:dumps", "price_per_call": 0.05}


@pytest.fixture
def task(task_file: Any) -> Task:
    prices = {"training_hour": 3.0, "label": 0.5, "currency": "EUR"}
    return load_task(task_file(name=TASK, cost=prices, judge=JUDGE, retraining={"monthly_budget": 5.0}))


def judged(lake: Lake, adapter: str, look: int, days_ago: float, calls: int, kind: Kind = "sampled") -> None:
    """A look that the judge answered `calls` questions of, and one that he did not answer."""
    rows = [Measurement(kind=kind, interaction_id=f"in-{n}", judge_id="jd-1", judged=0.5) for n in range(calls)]
    unasked = Measurement(kind="labelled", interaction_id="in-x")
    assert keep_measurements(lake, TASK, adapter, look, NOW - timedelta(days=days_ago), [*rows, unasked])


def test_hours_answers_and_calls_of_thirty_days_at_their_prices(
    local_lake: Lake, database: Database, task: Task
) -> None:
    nothing = spent_of(task, local_lake, database)
    assert (nothing.total, nothing.judge_calls, nothing.left) == (0.0, 0, 5.0)
    a_training(local_lake, database, TASK, seconds=1800)
    a_batch(database, [item(), item(), item()])
    say(database, 1, "ann", "greeting")
    annotate(database, "rb-000000000001", 2, "ann", Annotation("skip", None, "not mine"))
    say(database, 3, "bob", "greeting")
    judged(local_lake, "ad-1", 1, days_ago=31, calls=7)
    judged(local_lake, "ad-1", 2, days_ago=29, calls=4)
    measure_anew(local_lake, TASK, NOW - timedelta(days=2))
    judged(local_lake, "ad-2", 1, days_ago=1, calls=6, kind="labelled")
    spent = spent_of(task, local_lake, database)
    assert (spent.training_hours, spent.answers, spent.judge_calls) == (0.5, 2, 10)
    assert (spent.training, spent.labels, spent.judging) == (1.5, 1.0, 0.5)
    assert (spent.total, spent.currency, spent.left) == (3.0, "EUR", 2.0)
    later = spent_of(task, local_lake, database, NOW + timedelta(days=29, hours=1))
    assert later.judge_calls == 0 and later.total == 2.5


def test_a_search_for_options_counts_once_among_the_hours(local_lake: Lake, database: Database, task: Task) -> None:
    search = SearchRecord(search="se-1", stage=0, trials=8, seconds=3600, chosen={"r": 8})
    a_training(local_lake, database, TASK, seconds=1800, searched=search)
    a_training(local_lake, database, TASK, seconds=900, run="tr-2", searched=search)
    assert spent_of(task, local_lake, database).training_hours == 1.75


def test_the_judge_counts_against_the_monthly_budget(local_lake: Lake, database: Database, task: Task) -> None:
    judged(local_lake, "ad-1", 1, days_ago=1, calls=110)
    spent = spent_of(task, local_lake, database)
    assert (spent.total, spent.left) == (5.5, -0.5)
    assert permit(task.retraining, [], spent.total, NOW).state == "over_budget"


def test_the_adapter_beside_the_long_prompt(local_lake: Lake, database: Database, task: Task) -> None:
    assert return_of(task, local_lake, database) is None
    an_evaluation(local_lake, database, TASK)
    gained = return_of(task, local_lake, database)
    assert gained is not None and gained.champion is None
    assert (gained.metric, gained.rows, gained.currency) == ("exact_match", 120, "EUR")
    assert (gained.adapter.value, gained.adapter.lower, gained.adapter.upper) == pytest.approx((0.9, 0.8, 0.95))
    assert (gained.adapter.cost_per_1000, gained.baseline.cost_per_1000) == (0.2, 0.8)
    assert (gained.adapter.prompt_tokens, gained.baseline.prompt_tokens) == (50, 290)
