"""A job on somebody else's machines, from its submission to its result: found again, followed, stopped, tried again.

What is noted of a job belongs in `job_attempts.py`, how a place is asked in its launcher, and how the trainer is told
and heard there in `remote_trainer.py`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from dagster import AssetExecutionContext, DagsterExecutionInterruptedError, DagsterRunStatus, Failure

from finetune_platform.errors import FinetuneError, PermanentError, TransientError, Unreachable
from finetune_platform.resources.failures import failure
from finetune_platform.resources.job_attempts import ENDED, RESULT_KEY, SUBMITTED, Attempt
from finetune_platform.resources.local_launcher import STOPPED_EXIT_CODE

JOB_TAG, PLACE_TAG = "finetune/job", "finetune/job_place"
ERROR_KEY = "error"

KILLED = 128
"""A container killed by a signal ends with the signal's number above this."""

PATIENCE_S = 600
"""A place that does not answer for so long fails the step; its job goes on, and the next step finds it."""


class Ended(NamedTuple):
    """How a job ended. `retry`: the machine was lost or asked to stop, so the same job may succeed."""

    succeeded: bool
    retry: bool
    reason: str


def goes_on_after(code: int) -> bool:
    """Whether the trainer's next process goes on where one that ended with this code stopped: asked to, or killed."""
    return code == STOPPED_EXIT_CODE or code > KILLED


class Jobs(Protocol):
    """One place's jobs, by what it calls them. Every method raises `Unreachable` where the place does not answer."""

    place: str
    max_hours: float | None
    """None where the place itself ends a job after its time."""

    def find(self, name: str) -> str | None:
        """The id of the job that was submitted under `name`."""
        ...

    def submit(self, name: str, environment: Mapping[str, str]) -> str:
        """Starts the job unless one of that name was started before; returns its id."""
        ...

    def ended(self, job_id: str) -> Ended | None:
        """How it ended; None while it has not."""
        ...

    def stop(self, job_id: str) -> None:
        """Asks it to end; one that has ended is no error."""
        ...

    def page(self, job_id: str) -> str:
        """Where a person looks at it."""
        ...


def follow(
    context: AssetExecutionContext,
    jobs: Jobs,
    attempt: Attempt,
    environment: Mapping[str, str],
    listen: Callable[[], None],
    *,
    poll_s: float,
    stop_grace_s: float,
) -> Ended:
    """Sees an attempt to its end: submits it, or finds the job that was submitted for it.

    A run that is cancelled ends the job; a Dagster that is merely restarted leaves it running, to be found again.

    Args:
        context: Of the asset's step.
        jobs: The place.
        attempt: What is tried.
        environment: For the job.
        listen: Called at every look: reads what the job says.
        poll_s: Seconds between two looks.
        stop_grace_s: Seconds that a job has to end after it was asked to, before the step does.

    Raises:
        DagsterExecutionInterruptedError: The step was interrupted.
        Unreachable: The place does not answer for ten minutes.
    """
    try:
        job = _begin(context, jobs, attempt, environment)
        return _wait(jobs, job, listen, poll_s, context.log.warning)
    except DagsterExecutionInterruptedError:
        run = context.instance.get_run_by_id(context.run_id)
        if run is None or run.status is not DagsterRunStatus.CANCELING:
            context.log.warning(f"interrupted; {attempt.name} goes on at {jobs.place}, and the next run follows it")
            raise
        _stop(context, jobs, attempt, listen, poll_s, stop_grace_s)
        raise


class _Submitted(NamedTuple):
    job_id: str
    at: datetime


def _begin(context: AssetExecutionContext, jobs: Jobs, attempt: Attempt, environment: Mapping[str, str]) -> _Submitted:
    """The job, known before, found, or started by the place now; the run's tags carry its id."""
    known = attempt.noted(SUBMITTED)
    job_id = known["job_id"] if known else jobs.find(attempt.name)
    said = "follows" if job_id else "submitted"
    if job_id is None:
        try:
            job_id = jobs.submit(attempt.name, environment)
        except Unreachable:
            raise  # It may have been started all the same: the next look finds out.
        except FinetuneError as refused:
            attempt.note(ENDED, {"reason": refused.problem})
            raise
    if known is None:
        known = {"job_id": job_id, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        attempt.note(SUBMITTED, known)
    context.instance.add_run_tags(context.run_id, {JOB_TAG: job_id, PLACE_TAG: jobs.place})
    context.log.info(f"{jobs.place}: {said} {job_id}: {jobs.page(job_id)}")
    return _Submitted(job_id, datetime.fromisoformat(known["at"]))


def _wait(jobs: Jobs, job: _Submitted, listen: Callable[[], None], poll_s: float, warn: Callable[[str], None]) -> Ended:
    answered = time.monotonic()
    while True:
        ended = None
        try:
            ended = jobs.ended(job.job_id)
            listen()
            answered = time.monotonic()
        except Unreachable as error:
            if time.monotonic() - answered > PATIENCE_S:
                raise
            warn(f"{error}; {job.job_id} goes on, and is asked for again")
        if ended is not None:
            return ended
        if jobs.max_hours is not None and datetime.now(UTC) - job.at > timedelta(hours=jobs.max_hours):
            jobs.stop(job.job_id)
            return Ended(False, False, f"it was stopped after {jobs.max_hours:g} hours, its max_hours")
        time.sleep(poll_s)


def _stop(
    context: AssetExecutionContext,
    jobs: Jobs,
    attempt: Attempt,
    listen: Callable[[], None],
    poll_s: float,
    stop_grace_s: float,
) -> None:
    """Ends a cancelled run's job, and waits for its last checkpoint and words."""
    known = attempt.noted(SUBMITTED)
    job_id = known["job_id"] if known else jobs.find(attempt.name)
    if job_id is None:
        return
    context.log.info(f"stopping {job_id}; it has {stop_grace_s:g} s for a checkpoint")
    jobs.stop(job_id)
    attempt.note(ENDED, {"reason": "cancelled"})
    deadline = time.monotonic() + stop_grace_s
    while jobs.ended(job_id) is None and time.monotonic() < deadline:
        listen()
        time.sleep(poll_s)
    listen()


def settle(ended: Ended, messages: Sequence[dict[str, Any]], place: str) -> str:
    """The training run that a job reported.

    Raises:
        Failure: It reported none; retries make sense where the machine was lost or something transient was met.
    """
    for message in messages:
        if RESULT_KEY in message:
            return str(message[RESULT_KEY])
    # Workers that are started again tell it again: the last word counts.
    for message in reversed(messages):
        if ERROR_KEY in message:
            told = message[ERROR_KEY]
            raise failure((TransientError if told["transient"] else PermanentError)(told["problem"], told["mend"]))
    if ended.succeeded:
        # The adapter is in the lake, only the word of it was lost: the same job finds it there at once.
        raise Failure(f"the job at {place} ended well but reported no result", allow_retries=True)
    raise Failure(f"the job at {place} ended: {ended.reason}", allow_retries=ended.retry)
