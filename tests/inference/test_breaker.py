"""The circuit breaker: it opens on failures, leaves the server alone, and comes back by one trial."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.inference.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(**options: float) -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(clock=clock, **options), clock  # type: ignore[arg-type]


def outcome(breaker: Breaker, ok: bool) -> None:
    permit = breaker.acquire()
    assert permit is not None
    (breaker.succeeded if ok else breaker.failed)(permit)


def test_failures_in_a_row_open_it_and_one_trial_closes_it() -> None:
    breaker, clock = made(consecutive=3, open_s=2.0)
    for ok in (False, False, True, False, False):
        outcome(breaker, ok)
    assert breaker.state == "closed"
    outcome(breaker, False)
    assert breaker.state == "open"
    assert breaker.acquire() is None
    assert breaker.retry_after_s() == pytest.approx(2.0)
    clock.now += 2.0
    trial = breaker.acquire()
    assert trial is not None
    assert breaker.acquire() is None  # one at a time
    breaker.succeeded(trial)
    assert breaker.state == "closed"


def test_a_share_of_failures_opens_it_without_a_run_of_them() -> None:
    breaker, _ = made(consecutive=100, share=0.5, min_calls=10)
    for i in range(8):
        outcome(breaker, bool(i % 2))
    assert breaker.state == "closed"
    for i in range(4):
        if breaker.state == "closed":
            outcome(breaker, bool(i % 2))
    assert breaker.state == "open"


def test_failures_older_than_the_window_are_forgotten() -> None:
    breaker, clock = made(consecutive=100, share=0.5, min_calls=10, window_s=30.0)
    for _ in range(9):
        outcome(breaker, False)
    clock.now += 31
    for _ in range(9):
        outcome(breaker, True)
    for _ in range(8):
        outcome(breaker, False)
    assert breaker.state == "closed"  # 8 of 17 within the window, 17 of 26 in all


def test_each_failed_trial_doubles_the_pause_up_to_a_limit() -> None:
    breaker, clock = made(consecutive=1, open_s=2.0, max_open_s=10.0)
    outcome(breaker, False)
    pauses = []
    for _ in range(5):
        pauses.append(breaker.retry_after_s())
        clock.now += pauses[-1]
        outcome(breaker, False)
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0]
    clock.now += 10.0
    outcome(breaker, True)
    outcome(breaker, False)
    assert breaker.retry_after_s() == 2.0  # a server that came back starts anew


def test_a_trial_whose_caller_left_lets_the_next_one_in() -> None:
    breaker, clock = made(consecutive=1, open_s=1.0)
    outcome(breaker, False)
    clock.now += 1.0
    trial = breaker.acquire()
    assert trial is not None
    breaker.released(trial)
    outcome(breaker, True)
    assert breaker.state == "closed"


def test_answers_to_requests_from_before_it_opened_change_nothing() -> None:
    breaker, clock = made(consecutive=2, open_s=1.0)
    old = [breaker.acquire() for _ in range(5)]
    for permit in old[:2]:
        assert permit is not None
        breaker.failed(permit)
    assert old[2] is not None and old[3] is not None
    breaker.succeeded(old[2])
    assert breaker.state == "open"
    clock.now += 1.0
    trial = breaker.acquire()
    assert trial is not None
    breaker.failed(old[3])
    breaker.released(old[3])
    assert old[4] is not None
    breaker.succeeded(old[4])
    assert breaker.state == "half_open"
    assert breaker.acquire() is None  # the trial is still under way
    breaker.succeeded(trial)
    assert breaker.state == "closed"


events = st.lists(
    st.one_of(
        st.just(("acquire", 0.0)),
        st.tuples(st.sampled_from(["succeeded", "failed", "released"]), st.floats(0, 1, exclude_max=True)),
        st.tuples(st.just("wait"), st.floats(0, 5)),
    ),
    max_size=80,
)


@settings(max_examples=200)
@given(events=events, consecutive=st.integers(1, 4), min_calls=st.integers(1, 6))
def test_any_history(events: list[tuple[str, float]], consecutive: int, min_calls: int) -> None:
    """Open lets nothing through before its time, half-open at most one, closed everything; and it always comes back."""
    breaker, clock = made(consecutive=consecutive, min_calls=min_calls, open_s=2.0, max_open_s=8.0)
    held: list[tuple[int, str]] = []
    for name, number in events:
        before = breaker.state
        if name == "wait":
            clock.now += number
        elif name == "acquire":
            permit = breaker.acquire()
            if before == "closed":
                assert permit is not None
            if before == "open":
                assert permit is None
            if permit is not None:
                held.append((permit, before))
                trials = [p for p, state in held if state == "half_open" and p == permit]
                assert before == "closed" or len(trials) == 1
        elif held:
            permit, _ = held.pop(int(number * len(held)))
            getattr(breaker, name)(permit)
    for permit, _ in held:
        breaker.released(permit)
    clock.now += 8.0
    outcome(breaker, True)
    assert breaker.state == "closed"
