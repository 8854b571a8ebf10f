"""An A/B test in figures: who is compared, over which time, and how often a difference is told that is none."""

import random
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.serving import routes
from finetune_platform.serving.arm_comparison import MEASURES, comparison_of
from finetune_platform.serving.latency_bins import LATENCY_BINS_MS, latency_bin
from finetune_platform.serving.routes import edited
from finetune_platform.serving.tables import RouteChange, TrafficCount
from finetune_platform.serving.traffic import BUCKET_S, Counts, bucket_of
from finetune_platform.task import Task

NOW = bucket_of(datetime.now(UTC))
HOUR = timedelta(hours=1)


@pytest.fixture
def database(tmp_path: Any) -> Any:
    opened = Database(f"sqlite:///{tmp_path / 'finetune.db'}")
    yield opened
    opened.close()


def route(database: Database, at: datetime, **changes: Any) -> None:
    """A change of the route that was made at that moment."""
    version = routes.change(
        database, "topics", lambda plan: edited(plan, **changes), actor="t", action="route.edit", reason="t"
    ).version
    with database.session() as session:
        row = session.get(RouteChange, version)
        assert row is not None
        row.created_at = at


def tell(
    database: Database, at: datetime, adapter: str, arm: str, n: int, *, bad: int = 0, errors: int = 0, ms: float = 200
) -> None:
    counts = Counts(n=n, good=n - errors - bad, errors=errors, format_n=n - errors, invalid_format=bad)
    counts.latency[latency_bin(ms)] = n - errors
    with database.session() as session:
        session.add(
            TrafficCount(
                gateway="gw", task="topics", adapter_id=adapter, arm=arm, bucket=bucket_of(at), counts=asdict(counts)
            )
        )


def split(database: Database, since: datetime, share: float = 0.5) -> None:
    route(database, since - HOUR, champion="ad-1")
    route(database, since, canary="ad-2", canary_share=share)


def by_name(found: dict[str, Any]) -> dict[str, Any]:
    return {measure["name"]: measure for measure in found["measures"]}


def test_a_clear_difference_is_told_with_its_bounds(database: Database, topics: Task) -> None:
    split(database, NOW - HOUR)
    tell(database, NOW - 2 * HOUR, "ad-1", "champion", 100, ms=180)
    tell(database, NOW - HOUR / 2, "ad-2", "canary", 2000, bad=40, errors=10, ms=400)
    tell(database, NOW - HOUR / 2, "ad-1", "champion", 2000, bad=300, errors=10, ms=200)
    found = comparison_of(database, topics, NOW)
    assert found["verdict"] == "better"
    measures = by_name(found)
    assert list(measures) == list(MEASURES)
    good = measures["good_answers"]
    assert (good["b"], good["champion"], good["b_n"], good["champion_n"]) == (0.975, 0.845, 2000, 2000)
    assert good["observed"] == pytest.approx(0.13)
    assert 0.05 < good["lower"] < good["observed"] < good["upper"] < 0.2
    assert measures["valid_format"]["observed"] == pytest.approx((40 - 300) / 1990)
    assert measures["errors"]["lower"] < 0 < measures["errors"]["upper"]
    # What is slow was picked from the champion's answers before the test: 180 ms lie in the bin up to 190.3.
    assert found["slow_above_ms"] in LATENCY_BINS_MS and 180 < found["slow_above_ms"] < 200
    assert (measures["latency"]["b"], measures["latency"]["champion"]) == (1.0, 1.0)
    assert found["sides"]["b"]["latency_p50_ms"] > found["sides"]["champion"]["latency_p50_ms"]
    assert found["window"]["adapter"] == "ad-2" and found["window"]["champion"] == "ad-1"


def test_the_worse_side_is_named_and_two_equal_ones_are_not_told_apart(database: Database, topics: Task) -> None:
    split(database, NOW - HOUR)
    tell(database, NOW - HOUR / 2, "ad-2", "canary", 500, bad=200)
    tell(database, NOW - HOUR / 2, "ad-1", "champion", 500, bad=10)
    assert comparison_of(database, topics, NOW)["verdict"] == "worse"
    route(database, NOW - HOUR / 4, canary="ad-3")
    tell(database, NOW - HOUR / 8, "ad-3", "canary", 500, bad=10)
    tell(database, NOW - HOUR / 8, "ad-1", "champion", 500, bad=11)
    found = comparison_of(database, topics, NOW)
    assert (found["verdict"], found["window"]["adapter"]) == ("open", "ad-3")
    assert by_name(found)["good_answers"]["champion_n"] == 500, "the hours with ad-2 are another test's"
    assert found["slow_above_ms"] is not None


def test_what_nobody_measured_is_between_the_worst_and_the_best(database: Database, topics: Task) -> None:
    split(database, NOW - HOUR)
    found = comparison_of(database, topics, NOW)
    assert found["verdict"] == "open" and found["slow_above_ms"] is None
    for measure in found["measures"]:
        assert (measure["observed"], measure["lower"], measure["upper"]) == (None, -1.0, 1.0)


def test_counts_of_before_the_last_change_of_the_share_are_left_out(database: Database, topics: Task) -> None:
    """One side got most of its requests in a bad hour: added up it would look worse than it is (Simpson)."""
    split(database, NOW - 2 * HOUR, share=0.9)
    tell(database, NOW - 1.5 * HOUR, "ad-2", "canary", 900, bad=450)
    tell(database, NOW - 1.5 * HOUR, "ad-1", "champion", 100, bad=50)
    route(database, NOW - HOUR, canary_share=0.1)
    tell(database, NOW - HOUR / 2, "ad-2", "canary", 100)
    tell(database, NOW - HOUR / 2, "ad-1", "champion", 900)
    found = comparison_of(database, topics, NOW)
    good = by_name(found)["good_answers"]
    assert (found["window"]["share"], good["b_n"], good["observed"], found["verdict"]) == (0.1, 100, 0.0, "open")


def test_a_test_that_is_over_is_compared_as_it_ended(database: Database, topics: Task) -> None:
    split(database, NOW - 3 * HOUR)
    tell(database, NOW - 2 * HOUR, "ad-2", "canary", 50)
    tell(database, NOW - 2 * HOUR, "ad-1", "champion", 50)
    route(database, NOW - HOUR, canary=None, canary_share=0.0)
    tell(database, NOW - HOUR / 2, "ad-1", "champion", 5000, bad=5000)
    found = comparison_of(database, topics, NOW)
    assert found["window"]["until"] == (NOW - HOUR).isoformat(timespec="seconds")
    assert by_name(found)["good_answers"]["champion_n"] == 50


def test_a_demoted_champion_is_not_mixed_with_the_next(database: Database, topics: Task) -> None:
    split(database, NOW - 3 * HOUR)
    tell(database, NOW - 2 * HOUR, "ad-1", "champion", 50)
    tell(database, NOW - 2 * HOUR, "ad-2", "canary", 50)
    route(database, NOW - HOUR, champion=None)
    tell(database, NOW - HOUR / 2, "base", "base", 30)
    tell(database, NOW - HOUR / 2, "ad-2", "canary", 40)
    found = comparison_of(database, topics, NOW)
    good = by_name(found)["good_answers"]
    assert (found["window"]["champion"], good["b_n"], good["champion_n"]) == (None, 40, 30)


def test_a_task_without_a_test_says_how_to_start_one(database: Database, topics: Task) -> None:
    route(database, NOW, champion="ad-1")
    with pytest.raises(BadInput, match="never had an A/B test") as refused:
        comparison_of(database, topics, NOW)
    assert "finetune route ab topics" in refused.value.mend


def test_of_equal_sides_looked_at_again_and_again_few_are_ever_told_apart(database: Database, topics: Task) -> None:
    split(database, NOW - 100 * HOUR)
    rng = random.Random(1)
    told_apart = 0
    for test in range(20):
        start = NOW - (99 - test) * HOUR
        route(database, start, canary=f"ad-{test + 10}")
        for look in range(6):
            at = start + timedelta(seconds=(look + 1) * BUCKET_S)
            for adapter, arm in ((f"ad-{test + 10}", "canary"), ("ad-1", "champion")):
                tell(database, at, adapter, arm, 60, bad=sum(rng.random() < 0.2 for _ in range(60)))
            if comparison_of(database, topics, at + timedelta(seconds=30))["verdict"] != "open":
                told_apart += 1
                break
    assert told_apart <= 2
