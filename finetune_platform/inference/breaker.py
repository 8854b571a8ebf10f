"""A circuit breaker: a server that fails is left alone for a while, then tried with one request.

Only the state machine belongs here; what counts as a failure is decided in `dispatch.py`.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Closed lets everything through, open nothing, half-open one request at a time whose outcome decides.

    `acquire` gives a permit; whoever holds one returns it by exactly one of `succeeded`, `failed` and `released`.
    A permit from before the last change of state counts for nothing.

    Args:
        consecutive: Failures in a row that open it.
        share: Share of failures in the window that opens it, once the window holds `min_calls`.
        min_calls: Fewest outcomes that a share is taken of.
        window_s: Length of the window.
        open_s: How long it stays open the first time; doubled each time that a trial fails.
        max_open_s: Longest time it stays open.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self,
        consecutive: int = 5,
        share: float = 0.5,
        min_calls: int = 20,
        window_s: float = 30.0,
        open_s: float = 2.0,
        max_open_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.consecutive = consecutive
        self.share = share
        self.min_calls = min_calls
        self.window_s = window_s
        self.open_s = open_s
        self.max_open_s = max_open_s
        self._clock = clock
        self._state: State = "closed"
        self._changes = 0
        self._in_a_row = 0
        self._seconds: deque[list[float]] = deque()  # [second, calls, failures], oldest first
        self._trials_failed = 0
        self._opened_at = 0.0
        self._on_trial = False

    @property
    def state(self) -> State:
        if self._state == "open" and self.retry_after_s() <= 0:
            return "half_open"
        return self._state

    def retry_after_s(self) -> float:
        """Seconds until an open breaker lets a trial through; 0 when it does, or is not open."""
        if self._state != "open":
            return 0.0
        pause = min(self.open_s * 2**self._trials_failed, self.max_open_s)
        return max(0.0, self._opened_at + pause - self._clock())

    def acquire(self) -> int | None:
        """A permit to ask the server, or None."""
        if self._state == "closed":
            return self._changes
        if self._state == "open":
            if self.retry_after_s() > 0:
                return None
            self._change("half_open")
        if self._on_trial:
            return None
        self._on_trial = True
        return self._changes

    def succeeded(self, permit: int) -> None:
        """The server answered."""
        if permit != self._changes:
            return
        if self._state == "half_open":
            self._trials_failed = 0
            self._change("closed")
            return
        self._in_a_row = 0
        self._count(failures=0)

    def failed(self, permit: int) -> None:
        """The server did not answer, or answered wrongly, by its own fault."""
        if permit != self._changes:
            return
        if self._state == "half_open":
            # Beyond this the pause is at its limit for any sensible setting, and 2**n must stay a float.
            self._trials_failed = min(self._trials_failed + 1, 30)
            self._open()
            return
        self._in_a_row += 1
        calls, failures = self._count(failures=1)
        if self._in_a_row >= self.consecutive or (calls >= self.min_calls and failures >= self.share * calls):
            self._open()

    def released(self, permit: int) -> None:
        """It is not known whether the server would have answered: the caller went away, or it asked for a pause."""
        if permit == self._changes:
            self._on_trial = False

    def _open(self) -> None:
        self._opened_at = self._clock()
        self._change("open")

    def _change(self, state: State) -> None:
        self._state = state
        self._changes += 1
        self._on_trial = False
        self._in_a_row = 0
        self._seconds.clear()

    def _count(self, failures: int) -> tuple[float, float]:
        """Adds one outcome to the window; its calls and failures."""
        now = self._clock()
        while self._seconds and self._seconds[0][0] <= now - self.window_s:
            self._seconds.popleft()
        if self._seconds and now - self._seconds[-1][0] < 1:
            self._seconds[-1][1] += 1
            self._seconds[-1][2] += failures
        else:
            self._seconds.append([now, 1, failures])
        if not failures:
            return 0, 0
        return sum(s[1] for s in self._seconds), sum(s[2] for s in self._seconds)
