"""Slows down whoever tries keys at a sign-in page: some wrong ones in a minute, and the address has to wait."""

import threading
import time
from collections import deque
from collections.abc import Callable

WRONG_S = 1.0
"""How long the answer to a wrong key takes."""

WINDOW_S = 60.0
MOST = 5
ADDRESSES = 10_000


class Guesses:
    """Wrong keys of the last minute by the address that they came from.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> float:
        """How long an address has to wait before it may try again; 0: not at all."""
        with self._lock:
            moments = self._wrong.get(address, deque())
            while moments and self._clock() - moments[0] >= WINDOW_S:
                moments.popleft()
            return moments[0] + WINDOW_S - self._clock() if len(moments) >= MOST else 0.0

    def wrong(self, address: str) -> None:
        """Counts a wrong key."""
        with self._lock:
            moments = self._wrong.pop(address, deque(maxlen=MOST))
            moments.append(self._clock())
            self._wrong[address] = moments
            while len(self._wrong) > ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
