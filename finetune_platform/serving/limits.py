"""What one key may ask for in a minute, and how much this gateway takes on at once.

The buckets are in the memory of one gateway: behind a balancer with three gateways a key gets up to three times its
limit. Requests are counted when they come. Tokens are known only when the answer is there, so a key may end below zero
and then waits until its debt is paid off.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from finetune_platform.serving.callers import Caller
from finetune_platform.serving.requests import RequestRefused

MAX_CONCURRENT = 256
MINUTE_S = 60.0
BUSY_RETRY_S = 1.0
ROUNDING = 1e-6
"""Of a request or token: who waited as long as told must not be sent back for the last digit of a sum."""


class RateLimited(RequestRefused):
    """A request that may come again in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        # No caller needs to come back within the day, however long its debt.
        self.retry_after_s = min(retry_after_s, 86_400.0)
        headers = {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}
        super().__init__(429, message, "rate_limit_exceeded", headers=headers)


class TokenBucket:
    """Fills evenly to `per_minute` within a minute and never above it; may go below zero.

    Args:
        per_minute: What it holds, and what flows in within a minute.
        now_s: The moment, in seconds of any clock that never goes back.
    """

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._level, self._at_s = float(per_minute), now_s

    def wait_s(self, now_s: float, amount: float = 1.0) -> float:
        """Seconds until `amount` is there; 0 if it is."""
        self._fill(now_s)
        missing = amount - self._level
        return missing * MINUTE_S / self.per_minute if missing > ROUNDING else 0.0

    def take(self, now_s: float, amount: float) -> None:
        """Takes it, whether it is there or not."""
        self._fill(now_s)
        self._level -= amount

    def _fill(self, now_s: float) -> None:
        gained = max(0.0, now_s - self._at_s) * self.per_minute / MINUTE_S
        self._level = min(float(self.per_minute), self._level + gained)
        self._at_s = max(self._at_s, now_s)


class _Buckets(NamedTuple):
    requests: TokenBucket | None
    tokens: TokenBucket | None


class Limits:
    """Counts requests and tokens; used from the thread of one event loop.

    Args:
        max_concurrent: Requests that may be under way, of all callers together.
        clock: Monotonic seconds.
    """

    def __init__(self, max_concurrent: int = MAX_CONCURRENT, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_concurrent, self._clock = max_concurrent, clock
        self._buckets: dict[str, _Buckets] = {}
        self.under_way = 0

    @contextmanager
    def admitted(self, caller: Caller) -> Iterator[None]:
        """The time in which a request is under way.

        Raises:
            RateLimited: The gateway is full, or the caller has used up a limit; nothing is counted then.
        """
        self._admit(caller)
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def charge(self, caller: Caller, tokens: int) -> None:
        """Counts the tokens of an answer, prompt and completion together."""
        if (bucket := self._of(caller).tokens) is not None and tokens > 0:
            bucket.take(self._clock(), tokens)

    def _admit(self, caller: Caller) -> None:
        if self.under_way >= self._max_concurrent:
            raise RateLimited("the gateway has too many requests under way", BUSY_RETRY_S)
        requests, tokens = self._of(caller)
        now_s = self._clock()
        if requests is not None and (wait_s := requests.wait_s(now_s)) > 0:
            raise RateLimited(f"this key may make {requests.per_minute} requests a minute", wait_s)
        if tokens is not None and (wait_s := tokens.wait_s(now_s)) > 0:
            raise RateLimited(f"this key may use {tokens.per_minute} tokens a minute", wait_s)
        if requests is not None:
            requests.take(now_s, 1)

    def _of(self, caller: Caller) -> _Buckets:
        if caller.requests_per_minute is None and caller.tokens_per_minute is None:
            return _NO_BUCKETS
        if (found := self._buckets.get(caller.key_id)) is None:
            now_s = self._clock()
            found = self._buckets[caller.key_id] = _Buckets(
                _bucket(caller.requests_per_minute, now_s), _bucket(caller.tokens_per_minute, now_s)
            )
        return found


_NO_BUCKETS = _Buckets(None, None)


def _bucket(per_minute: int | None, now_s: float) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute, now_s)
