"""Latency, throughput and money of an arm."""

import pyarrow as pa
import pytest
from recorded_chain import make_rows

from finetune_platform.evaluation.predictions import ANSWER_SCHEMA, ArmAnswers, Measurement
from finetune_platform.evaluation.usage import Usage, usage_of
from finetune_platform.task import Cost


def answered(seconds: float = 4.0) -> ArmAnswers:
    """A hundred requests of 90 + 10 tokens that took 1 to 100 ms each."""
    records = [
        {
            "example_id": row.example_id,
            "answer": "x",
            "prompt_tokens": 90,
            "completion_tokens": 10,
            "latency_ms": float(i + 1),
            "finish_reason": "length" if i < 3 else "stop",
        }
        for i, row in enumerate(make_rows(0, 100))
    ]
    table = pa.Table.from_pylist(records, schema=ANSWER_SCHEMA)
    return ArmAnswers(table, Measurement(seconds, 8, "cpu", "2026-01-02T03:04:05+00:00"))


def usage(**cost: float) -> Usage:
    return usage_of(answered(), Cost.model_validate(cost))


def test_percentiles_and_rates() -> None:
    found = usage()
    assert found.latency_ms == pytest.approx({"p50": 50.5, "p95": 95.05, "p99": 99.01})
    assert (found.requests_per_second, found.tokens_per_second) == (25.0, 250.0)
    assert (found.prompt_tokens, found.completion_tokens, found.in_flight, found.cut_off) == (90, 10, 8, 0.03)


def test_machine_time_costs_what_the_throughput_says() -> None:
    found = usage(serving_hour=0.9, requests_per_month=2_000_000)
    assert found.cost_per_1000 == pytest.approx(0.9 / 3600 * 40)
    assert found.cost_per_month == pytest.approx(0.01 * 2000)


def test_token_prices_come_first() -> None:
    found = usage(serving_hour=100.0, input_tokens_per_million=1.0, output_tokens_per_million=5.0)
    assert found.cost_per_1000 == pytest.approx((90 * 1 + 10 * 5) / 1e6 * 1000)


def test_no_prices_no_cost() -> None:
    assert usage(requests_per_month=1000).cost_per_1000 is None


def test_an_arm_without_a_model_is_free() -> None:
    table = answered().table.set_column(4, "latency_ms", pa.nulls(100, pa.float64()))
    found = usage_of(ArmAnswers(table, None), Cost(serving_hour=1.0))
    assert (found.latency_ms, found.cost_per_1000, found.tokens_per_second) == ({}, 0.0, 0.0)
