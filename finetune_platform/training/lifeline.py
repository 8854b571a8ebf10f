"""How a training process ends before its time: asked to (SIGTERM), or because its parent is gone.

What is saved then is decided in `run.py`; how the parent kills in `resources/local_launcher.py`.
"""

import os
import signal
import threading
import time

STANDARD_INPUT = 0
LAST_WORDS_S = 60
"""An orphan may finish its step and save a checkpoint before it is killed."""


class StopRequest:
    """Whether somebody asked to stop, by SIGTERM or in words; call it to ask."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        self._asked.set()

    def listen(self) -> "StopRequest":
        signal.signal(signal.SIGTERM, lambda signum, frame: self.ask())
        return self


def exit_with_parent() -> None:
    """Ends this process, and all of its group if it leads one, once standard input closes.

    The parent holds the other end: a parent killed by SIGKILL cannot say goodbye, but its end closes.
    """
    threading.Thread(target=_end_with_input, name="lifeline", daemon=True).start()


def end_by_signal(number: int) -> None:
    """Ends this process as another that was ended by a signal: whoever waits for it then knows as much."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _end_with_input() -> None:
    # Unbuffered: a thread that holds the lock of `sys.stdin` aborts the interpreter when it shuts down.
    while os.read(STANDARD_INPUT, 4096):
        pass
    _signal_us(signal.SIGTERM)
    time.sleep(LAST_WORDS_S)
    _signal_us(signal.SIGKILL)


def _signal_us(number: signal.Signals) -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), number)
    else:
        os.kill(os.getpid(), number)
