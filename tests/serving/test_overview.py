"""What a person sees of a task: route, rollout with its evidence, rates of the last hour, history."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.database import Database
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.latency_bins import LATENCY_BINS_MS, latency_bin
from finetune_platform.serving.overview import figures_of, history_of, overview_of, traffic_of
from finetune_platform.serving.routes import edited
from finetune_platform.serving.tables import TrafficCount
from finetune_platform.serving.traffic import ArmKey, Counts, Told, bucket_of
from finetune_platform.task import Task

NOW = bucket_of(datetime.now(UTC))


def tell(database: Database, at: datetime, arm: str, adapter: str, gateway: str = "gw-1", **counts: Any) -> None:
    told = TrafficCount(
        gateway=gateway,
        task="topics",
        adapter_id=adapter,
        arm=arm,
        bucket=bucket_of(at),
        counts=asdict(Counts(**counts)),
    )
    with database.session() as session:
        session.add(told)


def route(database: Database, reason: str = "because", **changes: Any) -> None:
    routes.change(
        database, "topics", lambda plan: edited(plan, **changes), actor="cli:ann", action="route.edit", reason=reason
    )


def test_a_task_that_nobody_has_used_has_an_empty_overview(database: Database, topics: Task) -> None:
    found = overview_of(database, topics, NOW)
    assert (found["task"], found["description"]) == ("topics", topics.description)
    assert found["route"]["version"] == 0 and found["route"]["champion"] is None
    assert found["rollout"] is None and found["traffic"] == []
    assert history_of(database, "topics") == []
    orjson.dumps(found)


def test_the_last_hour_of_all_gateways_is_added_up_by_arm(database: Database, topics: Task) -> None:
    tell(database, NOW - timedelta(minutes=10), "champion", "ad-1", n=90, good=80, errors=9, prompt_tokens=100)
    tell(database, NOW - timedelta(minutes=50), "champion", "ad-1", "gw-2", n=10, good=9, errors=1, prompt_tokens=7)
    tell(database, NOW - timedelta(minutes=70), "champion", "ad-1", n=1000, errors=1000)
    tell(database, NOW - timedelta(minutes=1), "canary", "ad-2", n=5, good=5)
    canary, champion = overview_of(database, topics, NOW)["traffic"]
    assert (canary["arm"], canary["adapter"], canary["requests"], canary["error_rate"]) == ("canary", "ad-2", 5, 0.0)
    assert (champion["requests"], champion["error_rate"], champion["prompt_tokens"]) == (100, 0.1, 107)


def test_one_adapter_in_two_places_is_told_apart() -> None:
    rows = [Told(NOW, ArmKey("topics", "ad-1", arm), Counts(n=n)) for arm, n in (("champion", 3), ("fallback", 1))]
    assert [(arm["arm"], arm["requests"]) for arm in traffic_of(rows)] == [("champion", 3), ("fallback", 1)]


def test_rates_are_of_those_that_could_have_been_bad() -> None:
    counts = Counts(
        n=100, good=60, errors=20, format_n=50, invalid_format=10, refusals=8, feedback_n=4, feedback_negative=1
    )
    counts.latency[latency_bin(100)] = 60
    counts.latency[latency_bin(1000)] = 20
    told = figures_of(counts)
    assert (told["error_rate"], told["invalid_format_rate"], told["refusal_rate"]) == (0.2, 0.2, 0.1)
    assert (told["negative_feedback_rate"], told["feedback"]) == (0.25, 4)
    assert told["latency_p50_ms"] < 130 and 1000 <= told["latency_p95_ms"] < 1300
    nothing = figures_of(Counts())
    assert {nothing[name] for name in nothing if name.endswith(("_rate", "_ms"))} == {None}


@given(
    n=st.integers(0, 1000),
    errors=st.integers(0, 1000),
    invalid=st.integers(0, 1000),
    latencies=st.lists(st.floats(0, 1e6), max_size=30),
)
def test_no_rate_leaves_its_range_and_quantiles_rise(n: int, errors: int, invalid: int, latencies: list[float]) -> None:
    errors = min(n, errors)
    counts = Counts(n=n, errors=errors, format_n=n - errors, invalid_format=min(invalid, n - errors))
    for latency in latencies:
        counts.latency[latency_bin(latency)] += 1
    told = figures_of(counts)
    assert all(0 <= told[name] <= 1 for name in told if name.endswith("_rate") and told[name] is not None)
    quantiles = [told[f"latency_p{p}_ms"] for p in (50, 95, 99)]
    known = [value for value in quantiles if value is not None]
    assert known == sorted(known) and set(known) <= set(LATENCY_BINS_MS)
    assert quantiles[: len(known)] == known, "beyond the last bin nothing is known, and not below it either"


def test_a_rollout_is_shown_with_its_evidence_and_its_limits(database: Database, topics: Task) -> None:
    route(database, champion="ad-1")
    begun = NOW - timedelta(hours=3)
    started = rollouts.ensure_started(database, topics, "ad-2", actor="t", reason="registered", now=begun)
    tell(database, begun + timedelta(minutes=5), "canary", "ad-2", n=40, good=36, format_n=40, invalid_format=4)
    tell(database, begun + timedelta(minutes=5), "champion", "ad-1", n=800, good=780, format_n=800, invalid_format=20)
    rollouts.tick(database, topics, begun + timedelta(minutes=30))
    found = overview_of(database, topics, NOW)["rollout"]
    assert (found["rollout_id"], found["adapter_id"], found["champion_id"]) == (started.rollout_id, "ad-2", "ad-1")
    assert (found["state"], found["place"], found["percent"], found["steps"]) == ("running", "5%", 5, [5, 25, 50, 100])
    assert found["hours_in_step"] == pytest.approx(3.0, abs=0.01) and found["hold_hours"] == 48
    assert (found["canary_requests"], found["min_n"]) == (40, 200)
    difference = found["difference"]
    assert difference["observed"] == pytest.approx(36 / 40 - 780 / 800)
    assert difference["lower"] < difference["observed"] < difference["upper"] and difference["must_exceed"] == -0.05
    rails = {rail["name"]: rail for rail in found["guardrails"]}
    assert list(rails) == topics.rollout.guardrails
    assert (rails["valid_format"]["canary"], rails["valid_format"]["champion"]) == (0.1, 0.025)
    assert rails["valid_format"]["e_value"] > 1 > rails["errors"]["e_value"] - 1e-9
    assert rails["valid_format"]["limit"] == 100
    assert rails["feedback"]["canary"] is None and rails["feedback"]["canary_n"] == 0
    orjson.dumps(found)


def test_an_ended_rollouts_clock_stands_still(database: Database, topics: Task) -> None:
    rollouts.ensure_started(database, topics, "ad-2", actor="t", reason="r", now=NOW)
    rollouts.by_hand(database, topics, "abort", actor="t", reason="enough")
    one, other = (overview_of(database, topics, NOW + timedelta(hours=h))["rollout"] for h in (1, 9))
    assert one["state"] == "aborted" and one["hours_in_step"] == other["hours_in_step"] < 1


def test_history_is_plain_values_oldest_first(database: Database) -> None:
    route(database, champion="ad-1", reason="first")
    route(database, canary="ad-2", canary_share=0.25, reason="trial")
    told = history_of(database, "topics")
    assert [(s["adapter_id"], s["arm"], s["share"]) for s in told] == [
        ("ad-1", "champion", 1.0),
        ("ad-2", "canary", 0.25),
        ("ad-1", "champion", 0.75),
    ]
    assert told[0]["until"] == told[1]["since"] and told[1]["until"] is None
    assert datetime.fromisoformat(told[0]["since"]).tzinfo is not None
    orjson.dumps(told)
