"""How often a run was begun and how each time ended, beside its checkpoints: what fails twice alike is not tried again.

A process that was killed says nothing, so an attempt is written down when it begins; one without an ending died without
a word. What a failure is called for a person stands with those who raise it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from pydantic import Field

from finetune_platform.errors import FinetuneError, PermanentError, TransientError
from finetune_platform.lake import Lake
from finetune_platform.manifests import Record
from finetune_platform.training.loop import Stopped

STOPPED, FINISHED, KILLED = "stopped", "finished", "killed"
"""Endings that are no exception's name."""

SHARE_OF_TIME = 0.02
"""Most of a run's time that is spent on telling the lake how far it is."""

MEMORY = "lower training.stages[0].max_length and curation.max_tokens, or take a machine with more memory"


class Attempt(Record):
    """One process's try.

    Attributes:
        began_at: UTC.
        from_step: Steps done when it began.
        reached: Steps done when it last said so.
        ending: `stopped`, `finished`, `killed`, or the class of what was raised; None while it runs.
    """

    began_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    from_step: int
    reached: int
    ending: str | None = None


class Attempts(Record):
    """A training run's `attempts.json`, oldest first."""

    attempts: list[Attempt] = []


@contextmanager
def attempt(lake: Lake, run_path: str, from_step: int) -> Iterator[Callable[[int], None]]:
    """A process's work on a run stands inside; it is given what it tells its steps to.

    Args:
        lake: Holds the run.
        run_path: Its folder.
        from_step: Where this process takes it up.

    Raises:
        PermanentError: Before the block: two processes in a row were killed, the second no further than the first.
            After it: what ended the block had ended the attempt before too, no further on. Either is told to a person,
            whose next start tries again.
    """
    history = _history(lake, run_path)
    if history and history[-1].ending is None:
        history[-1].ending = KILLED
        if _repeats(history):
            _keep(lake, run_path, history)
            raise _killed_again(history[-1])
    own = Attempt(from_step=from_step, reached=from_step)
    history.append(own)
    _keep(lake, run_path, history)
    quiet_until = 0.0

    def reach(step: int) -> None:
        nonlocal quiet_until
        own.reached, began = step, time.monotonic()
        if began >= quiet_until:
            # A mark that does not arrive makes the next one more telling, and is no reason to end a run.
            with suppress(TransientError):
                _keep(lake, run_path, history)
            now = time.monotonic()
            quiet_until = now + (now - began) / SHARE_OF_TIME

    try:
        yield reach
        own.ending = FINISHED
    except (Stopped, KeyboardInterrupt):
        own.ending = STOPPED
        raise
    except Exception as error:
        own.ending = type(error).__name__
        if _repeats(history) and not isinstance(error, PermanentError):
            raise _failed_again(error, own) from error
        raise
    finally:
        with suppress(TransientError):
            _keep(lake, run_path, history)


def _repeats(history: Sequence[Attempt]) -> bool:
    """Whether the last attempt failed as the last failed one before it, and came no further than those until then."""
    *before, last = history
    while before and before[-1].ending in (STOPPED, FINISHED):
        before.pop()
    return bool(before) and before[-1].ending == last.ending and last.reached <= max(a.reached for a in before)


def _killed_again(last: Attempt) -> PermanentError:
    return PermanentError(
        f"training was killed twice after step {last.reached} and got no further the second time (out of memory?)",
        f"{MEMORY}; the same command then goes on after step {last.from_step}",
    )


def _failed_again(error: Exception, own: Attempt) -> PermanentError:
    problem, mend = str(error) or own.ending, "its traceback tells where; it will not pass by itself"
    if isinstance(error, FinetuneError):
        problem, mend = error.problem, error.mend
    elif isinstance(error, MemoryError) or own.ending == "OutOfMemoryError":
        mend = MEMORY
    return PermanentError(
        f"training failed with {own.ending} after step {own.reached} for the second time: {problem}", mend
    )


def _history(lake: Lake, run_path: str) -> list[Attempt]:
    try:
        return Attempts.model_validate_json(lake.get(_place(run_path))).attempts
    except FileNotFoundError:
        return []


def _keep(lake: Lake, run_path: str, history: list[Attempt]) -> None:
    lake.put(_place(run_path), Attempts(attempts=history).model_dump_json(indent=2).encode())


def _place(run_path: str) -> str:
    return f"{run_path}/checkpoints/attempts.json"
