"""Limits: what a key may ask for in any minute, what it owes afterwards, and how much goes on at once."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.serving.callers import Caller
from finetune_platform.serving.limits import Limits, RateLimited, TokenBucket


class Clock:
    """Seconds, by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def a_caller(key_id: str = "00000001", requests: int | None = None, tokens: int | None = None) -> Caller:
    return Caller(
        key_id, f"key:{key_id}", "shop", ("caller",), ("*",), requests_per_minute=requests, tokens_per_minute=tokens
    )


def admits(limits: Limits, caller: Caller) -> bool:
    try:
        with limits.admitted(caller):
            return True
    except RateLimited:
        return False


@settings(max_examples=100, deadline=None)
@given(
    per_minute=st.integers(1, 2000),
    gaps_s=st.lists(st.floats(0, 30) | st.just(0.0), min_size=1, max_size=200),
    window=st.tuples(st.integers(0, 199), st.integers(0, 199)),
)
def test_in_no_stretch_of_time_does_more_pass_than_a_full_bucket_and_what_flows_in(
    per_minute: int, gaps_s: list[float], window: tuple[int, int]
) -> None:
    clock = Clock()
    limits, caller = Limits(clock=clock), a_caller(requests=per_minute)
    passed: list[tuple[float, bool]] = []
    for gap_s in gaps_s:
        clock.now_s += gap_s
        passed.append((clock.now_s, admits(limits, caller)))
    first, last = sorted(position % len(passed) for position in window)
    count = sum(ok for _, ok in passed[first : last + 1])
    assert count <= per_minute + (passed[last][0] - passed[first][0]) * per_minute / 60 + 1e-3


@settings(max_examples=100, deadline=None)
@given(per_minute=st.integers(1, 100_000), charges=st.lists(st.integers(0, 50_000), max_size=20))
def test_who_waits_as_long_as_told_is_let_in_and_not_much_earlier(per_minute: int, charges: list[int]) -> None:
    clock = Clock()
    limits, caller = Limits(clock=clock), a_caller(tokens=per_minute)
    for tokens in charges:
        limits.charge(caller, tokens)
    if admits(limits, caller):
        assert sum(charges) <= per_minute - 1 + 1e-3
        return
    bucket = TokenBucket(per_minute, 0.0)
    bucket.take(0.0, sum(charges))
    wait_s = bucket.wait_s(0.0)
    clock.now_s += wait_s * 0.98 - 0.001
    assert not admits(limits, caller)
    clock.now_s += wait_s * 0.02 + 0.002
    assert admits(limits, caller)


@settings(max_examples=50, deadline=None)
@given(per_minute=st.integers(1, 1000), idle_s=st.floats(0, 1e7), back_s=st.floats(0, 1e4))
def test_a_bucket_holds_no_more_than_a_minute_and_a_clock_that_jumps_back_fills_nothing(
    per_minute: int, idle_s: float, back_s: float
) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    bucket.take(0.0, per_minute)
    bucket.wait_s(idle_s)
    bucket.take(idle_s - back_s, 0)
    now_s = idle_s - back_s
    taken = 0
    while bucket.wait_s(now_s) == 0 and taken <= per_minute:
        bucket.take(now_s, 1)
        taken += 1
    assert taken <= min(per_minute, idle_s * per_minute / 60 + 1e-3)


def test_a_refusal_says_when_to_come_back_and_costs_nothing() -> None:
    clock = Clock()
    limits, caller = Limits(clock=clock), a_caller(requests=2)
    assert [admits(limits, caller) for _ in range(3)] == [True, True, False]
    with pytest.raises(RateLimited, match="2 requests a minute") as told, limits.admitted(caller):
        pass
    assert told.value.status == 429 and told.value.headers == {"retry-after": "30"}
    assert told.value.retry_after_s == pytest.approx(30)
    for _ in range(50):
        assert not admits(limits, caller)
    clock.now_s += 30
    assert admits(limits, caller) and not admits(limits, caller)


def test_tokens_are_charged_afterwards_and_a_debt_is_paid_off_first() -> None:
    clock = Clock()
    limits, caller = Limits(clock=clock), a_caller(tokens=600)
    assert admits(limits, caller)
    limits.charge(caller, 1800)
    clock.now_s += 119
    assert not admits(limits, caller)
    clock.now_s += 1.2
    assert admits(limits, caller)


def test_a_request_refused_for_its_tokens_is_not_counted_as_a_request() -> None:
    clock = Clock()
    limits, caller = Limits(clock=clock), a_caller(requests=1, tokens=60)
    limits.charge(caller, 60)
    assert not admits(limits, caller)
    clock.now_s += 1
    assert admits(limits, caller)


def test_keys_do_not_share_a_limit_and_a_key_without_one_has_none() -> None:
    limits, free = Limits(clock=Clock()), a_caller("00000003")
    one, other = a_caller("00000001", requests=1), a_caller("00000002", requests=1)
    assert admits(limits, one) and not admits(limits, one) and admits(limits, other)
    limits.charge(free, 10**9)
    assert all(admits(limits, free) for _ in range(1000))


def test_a_refusal_never_sends_anybody_away_for_more_than_a_day() -> None:
    limits, caller = Limits(clock=Clock()), a_caller(tokens=1)
    limits.charge(caller, 10**9)
    with pytest.raises(RateLimited) as told, limits.admitted(caller):
        pass
    assert told.value.headers["retry-after"] == "86400"


def test_so_many_at_once_and_no_more_whoever_they_are() -> None:
    limits = Limits(max_concurrent=3)
    done = asyncio.Event()
    seen: list[str] = []

    async def ask(number: int) -> None:
        try:
            with limits.admitted(a_caller(f"{number:08x}")):
                await done.wait()
                seen.append("answered")
        except RateLimited as error:
            assert error.headers["retry-after"] == "1"
            seen.append("refused")

    async def crowd() -> None:
        tasks = [asyncio.create_task(ask(number)) for number in range(5)]
        await asyncio.sleep(0)
        assert limits.under_way == 3 and seen == ["refused"] * 2
        tasks[0].cancel()
        done.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(crowd())
    assert seen == ["refused"] * 2 + ["answered"] * 2
    assert limits.under_way == 0, "cancelled requests give their place back"


def test_a_full_gateway_counts_nothing_against_a_key() -> None:
    limits, caller = Limits(max_concurrent=1, clock=Clock()), a_caller(requests=1)
    with limits.admitted(a_caller("00000002")):
        assert not admits(limits, caller)
    assert admits(limits, caller)
