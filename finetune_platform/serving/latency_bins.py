"""Latency as counts in fixed bins: what gateways add up per minute, and the limit beyond which an answer is slow.

How slow answers weigh in a rollout stands in `rollout_evidence.py`.
"""

from bisect import bisect_left
from collections.abc import Sequence

from finetune_platform.errors import BadInput

LATENCY_BINS_MS: tuple[float, ...] = tuple(round(10.0 * 2 ** (i / 4), 1) for i in range(65))
"""Upper edges of the bins, in ms: four a doubling, 10 ms to 11 min. One more bin holds everything slower."""

SLOW_QUANTILE = 0.9
"""An answer is slow above the champion's latency at this quantile."""


def latency_bin(latency_ms: float) -> int:
    """Index of the bin of one latency, in [0, len(LATENCY_BINS_MS)]; a bin holds its upper edge."""
    return bisect_left(LATENCY_BINS_MS, latency_ms)


def slow_limit_ms(histogram: Sequence[int], quantile: float = SLOW_QUANTILE) -> float | None:
    """The bin edge at which at least `quantile` of the answers were given, in ms.

    To be picked from the champion's answers *before* those that are compared, so that it does not depend on them.

    Args:
        histogram: Answers per bin, `len(LATENCY_BINS_MS) + 1` of them.
        quantile: In (0, 1).

    Returns:
        None where there are no answers, or too many beyond the last edge.

    Raises:
        BadInput: The histogram has another number of bins.
    """
    _check(histogram)
    wanted, below = quantile * sum(histogram), 0
    for edge, count in zip(LATENCY_BINS_MS, histogram, strict=False):
        below += count
        if below >= wanted and below > 0:
            return edge
    return None


def slow_count(histogram: Sequence[int], limit_ms: float) -> int:
    """Answers slower than `limit_ms`, which is one of the bins' edges.

    Raises:
        BadInput: The histogram has another number of bins.
    """
    _check(histogram)
    return sum(histogram[latency_bin(limit_ms) + 1 :])


def _check(histogram: Sequence[int]) -> None:
    if len(histogram) != len(LATENCY_BINS_MS) + 1:
        raise BadInput(
            f"latency histogram: {len(histogram)} bins, {len(LATENCY_BINS_MS) + 1} were expected",
            "count with latency_bin() of the same version of finetune_platform",
        )
