"""Waiting for what sensors start: a run is followed on the screen, a state is polled; nothing waits for ever."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from finetune_platform.commands.live import stage_view
from finetune_platform.commands.processes import Service, raise_if_ended
from finetune_platform.errors import PermanentError
from finetune_platform.resources.failures import failure_of_run
from finetune_platform.sensors.attempts import IN_FLIGHT
from finetune_platform.sensors.by_hand import Following

POLL_S = 1.0
Found = TypeVar("Found")


def until(
    services: Sequence[Service],
    look: Callable[[], Found | None],
    what: str,
    timeout_s: float,
    tell: Callable[[str], None],
) -> Found:
    """What `look` finds, as soon as it finds something.

    Args:
        services: Must live meanwhile.
        what: That is waited for, in words.
        tell: Hears from time to time that it still waits.

    Raises:
        PermanentError: It took too long, or a server ended.
    """
    began = told = time.monotonic()
    while (found := look()) is None:
        raise_if_ended(services)
        now = time.monotonic()
        if now - began > timeout_s:
            raise PermanentError(f"{what}: nothing came of it in {timeout_s:.0f} s", "see the runs in Dagster's UI")
        if now - told > 15:
            told = now
            tell(f"{what}: {now - began:.0f} s")
        time.sleep(POLL_S)
    return found


def run_of(instance: DagsterInstance, job: str, tags: dict[str, str] | None = None) -> DagsterRun | None:
    """The newest run of a job."""
    found: Sequence[Any] = instance.get_runs(RunsFilter(job_name=job, tags=tags or {}), limit=1)
    return found[0] if found else None


def follow(instance: DagsterInstance, run_id: str, stages: Sequence[str], services: Sequence[Service]) -> None:
    """Shows a run until it ends.

    Raises:
        FinetuneError: With the problem and mend of the stage that failed.
    """
    with stage_view(stages) as send, Following(instance, run_id, send):
        while True:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            if run.status not in IN_FLIGHT:
                break
            raise_if_ended(services)
            time.sleep(POLL_S)
    if run.status != DagsterRunStatus.SUCCESS:
        raise failure_of_run(instance, run_id)
