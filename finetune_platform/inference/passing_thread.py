"""Work in a thread that ends with it.

torch and the libraries under it keep helper threads for every thread that computes, for as long as that one lives. In
a pool, or in the main thread, they would stay, and slow down whoever computes all the time (`continuous.py`).
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_passing_thread(work: Callable[[], T]) -> "Future[T]":
    """What `work` will have returned or raised; `asyncio.wrap_future` awaits it."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # who waits may go away; the work goes on

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            done.set_exception(error)
        else:
            done.set_result(result)

    threading.Thread(target=run, name="passing", daemon=True).start()
    return done
