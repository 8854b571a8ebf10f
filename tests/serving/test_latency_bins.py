"""Latency histograms: which answers are slow."""

import numpy as np
import pytest

from finetune_platform.errors import BadInput
from finetune_platform.serving.latency_bins import LATENCY_BINS_MS, latency_bin, slow_count, slow_limit_ms


def histogram(latencies: np.ndarray) -> list[int]:
    return np.bincount([latency_bin(ms) for ms in latencies], minlength=len(LATENCY_BINS_MS) + 1).tolist()


def test_the_limit_is_the_quantile_rounded_up_to_an_edge() -> None:
    latencies = np.random.default_rng(0).lognormal(np.log(800), 0.6, 5000)
    counts = histogram(latencies)
    limit = slow_limit_ms(counts)
    quantile = np.quantile(latencies, 0.9)
    assert limit is not None and quantile <= limit <= quantile * 1.19
    assert slow_count(counts, limit) == (latencies > limit).sum()
    assert slow_count(histogram(latencies * 2), limit) > 3 * slow_count(counts, limit)


def test_extreme_latencies_have_bins() -> None:
    counts = histogram(np.array([0.0, 1.0, 10.0, 10.1, 1e9]))
    assert counts[0] == 3 and counts[1] == 1 and counts[-1] == 1
    assert slow_limit_ms(counts, 0.5) == LATENCY_BINS_MS[0]


def test_without_traffic_or_beyond_the_last_edge_there_is_no_limit() -> None:
    empty = [0] * (len(LATENCY_BINS_MS) + 1)
    assert slow_limit_ms(empty) is None
    assert slow_limit_ms([*empty[:-1], 10]) is None


def test_a_histogram_of_other_bins_is_refused() -> None:
    with pytest.raises(BadInput, match="3 bins"):
        slow_limit_ms([1, 2, 3])
