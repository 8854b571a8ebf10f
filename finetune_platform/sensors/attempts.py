"""One piece of work, started until it is done: what the runs that carry its tags say about the next attempt.

A run in flight means wait, a success settles the work, a transient failure makes the next attempt after a pause, a
permanent one ends it. What the work is belongs to the sensor that asks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dagster import DagsterInstance, DagsterRunStatus, RunRequest, RunsFilter

from finetune_platform.errors import PermanentError
from finetune_platform.resources.failures import failure_of_run

MAX_ATTEMPTS = 3
PAUSE_S = 600.0
"""Before the second attempt; doubled before each further one."""

IN_FLIGHT = frozenset(
    {
        DagsterRunStatus.QUEUED,
        DagsterRunStatus.NOT_STARTED,
        DagsterRunStatus.STARTING,
        DagsterRunStatus.STARTED,
        DagsterRunStatus.CANCELING,
    }
)


class Outcome(NamedTuple):
    """What to do: start `request`, or wait, for `reason`; `settled` work is done, `ended` work has failed for good."""

    request: RunRequest | None
    settled: bool
    reason: str
    ended: bool = False


def attempt(
    instance: DagsterInstance,
    tags: Mapping[str, str],
    run_key: str,
    now: float,
    run_config: Mapping[str, Any] | None = None,
) -> Outcome:
    """The next step of one piece of work.

    Args:
        instance: Whose runs tell what has been done.
        tags: What every run of this work carries, and no other run.
        run_key: Of this work; the attempt is added, because a used key starts nothing again.
        now: Unix time in seconds.
        run_config: Of the run that is asked for.
    """
    records = instance.get_run_records(RunsFilter(tags=dict(tags)))
    statuses = [record.dagster_run.status for record in records]
    if any(status in IN_FLIGHT for status in statuses):
        return Outcome(None, False, "its run is in flight")
    if DagsterRunStatus.SUCCESS in statuses:
        return Outcome(None, True, "its run succeeded")
    failures = [failure_of_run(instance, record.dagster_run.run_id) for record in records]
    if permanent := next((f for f in failures if isinstance(f, PermanentError)), None):
        # The same input fails the same way; a mended one has other tags.
        return Outcome(None, False, f"not tried again: {permanent.problem}", ended=True)
    number = len(statuses) + 1
    if number > MAX_ATTEMPTS:
        told = f"{MAX_ATTEMPTS} attempts failed; mend the cause, then start it by hand"
        return Outcome(None, False, told, ended=True)
    if records and (left := _pause_left(number, max(r.end_time or 0.0 for r in records), now)) > 0:
        return Outcome(None, False, f"attempt {number} in {left:.0f} s")
    request = RunRequest(run_key=f"{run_key}-{number}", tags=dict(tags), run_config=dict(run_config or {}))
    return Outcome(request, False, "")


def _pause_left(number: int, ended: float, now: float) -> float:
    return ended + PAUSE_S * 2 ** (number - 2) - now
