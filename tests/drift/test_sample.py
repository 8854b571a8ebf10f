"""A sample of rows that come in pieces: all where they are few, a fair part where they are many."""

from datetime import UTC, datetime, timedelta

import numpy as np

from finetune_platform.drift.rows import TrafficRow
from finetune_platform.drift.sample import sampled

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def pieces(*sizes: int) -> list[list[TrafficRow]]:
    numbers = iter(range(sum(sizes)))
    return [[row(next(numbers)) for _ in range(size)] for size in sizes]


def row(number: int) -> TrafficRow:
    return TrafficRow(interaction_id=str(number), timestamp=BEGIN + timedelta(minutes=number), question="q")


def test_few_rows_are_all_taken() -> None:
    found = sampled(pieces(3, 0, 4), 7, seed=0)
    assert [one.interaction_id for one in found.rows] == list("0123456")
    assert (found.logged, found.last) == (7, BEGIN + timedelta(minutes=6))
    assert sampled([], 7, seed=0) == ([], 0, None)


def test_of_many_each_is_as_likely_as_any_other_and_their_order_stays() -> None:
    counts = np.zeros(60)
    for seed in range(400):
        found = sampled(pieces(10, 40, 10), 15, seed)
        numbers = [int(one.interaction_id) for one in found.rows]
        assert len(numbers) == 15 and numbers == sorted(numbers) and found.logged == 60
        counts[numbers] += 1
    # Each is drawn in a quarter of 400: five standard deviations of 8.7.
    assert np.all(np.abs(counts - 100) < 44)


def test_the_newest_moment_is_that_of_all_rows_not_of_the_sample() -> None:
    assert sampled(pieces(50), 1, seed=0).last == BEGIN + timedelta(minutes=49)
