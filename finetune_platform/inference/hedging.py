"""Asking a second server when the first is slower than usual, and taking the answer that comes first.

Only the race and the measure of "usual" belong here; whom to ask is `dispatch.py`'s.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from finetune_platform.inference.chat import EngineError

T = TypeVar("T")

MIN_LATENCIES = 20
"""Answers after which the 95th percentile is more than the slowest one seen."""


class Latencies:
    """Seconds that the latest 256 answers took."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=256)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def p95(self) -> float | None:
        """Their 95th percentile; None before there are enough of them."""
        if len(self._seconds) < MIN_LATENCIES:
            return None
        return sorted(self._seconds)[int(0.95 * len(self._seconds))]


async def first_answer(
    first: Coroutine[Any, Any, T], second: Callable[[], Coroutine[Any, Any, T] | None], after_s: float
) -> T:
    """The answer that comes first; the other request is cancelled before this returns.

    Args:
        first: Starts at once.
        second: Makes the second request, or None where there is nobody else to ask.
        after_s: When to start it.

    Raises:
        EngineError: Both failed; the first one's failure.
    """
    tasks = [asyncio.create_task(first)]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done() and (other := second()) is not None:
            tasks.append(asyncio.create_task(other))
        return await _first_success(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first_success(tasks: list[asyncio.Task[T]]) -> T:
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and not isinstance(task.exception(), EngineError):
                return task.result()
    return tasks[0].result()
