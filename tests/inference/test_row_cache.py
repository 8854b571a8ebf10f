"""Rows keep their keys and values while others come and go, within the memory that was allowed."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.inference.row_cache import RowCache


@settings(max_examples=60)
@given(orders=st.lists(st.tuples(st.booleans(), st.integers(1, 900), st.integers(0, 7)), max_size=40))
def test_rows_keep_their_columns_through_growth_and_leaving(orders: list[tuple[bool, int, int]]) -> None:
    cache = RowCache(2, 3, 4, torch.zeros(1), max_rows=4, max_tokens=2048)
    held: dict[int, torch.Tensor] = {}
    for comes, columns, choice in orders:
        if comes:
            slot = cache.acquire(columns)
            if slot is None:
                needed = max([columns, *(t.shape[3] for t in held.values())])
                rows = max([*held, next(s for s in range(5) if s not in held)]) + 1
                assert len(held) == 4 or rows * needed > 2048
                continue
            assert slot not in held
            held[slot] = torch.randn(2, 2, 3, columns, 4)
            cache.start_with(slot, held[slot])
        elif held:
            leaving = sorted(held)[choice % len(held)]
            cache.release(leaving)
            del held[leaving]
        for slot, kv in held.items():
            assert torch.equal(cache.copy_of(slot, kv.shape[3]), kv)
        assert cache.kv.shape[2] * cache.kv.shape[4] <= 2048
        assert cache.kv.isfinite().all()


def test_one_row_alone_may_be_longer_than_the_limit() -> None:
    cache = RowCache(1, 1, 2, torch.zeros(1), max_rows=4, max_tokens=512)
    assert cache.acquire(2000) == 0
    assert cache.acquire(10) is None
    cache.release(0)
    assert [cache.acquire(10), cache.acquire(10)] == [0, 1]
    assert cache.kv.shape[2] * cache.kv.shape[4] <= 512
