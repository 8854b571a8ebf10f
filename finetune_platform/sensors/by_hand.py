"""A run that a person starts from a terminal: executed in this process, told of as it happens.

It is an ordinary run of the installation's Dagster instance: the UI shows its log, its assets and its checks.
"""

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from dagster import AssetKey, DagsterEvent, DagsterEventType, DagsterInstance, EventLogEntry, JobDefinition

from finetune_platform.progress import SendEvent, StageEvent, StageKind
from finetune_platform.resources.failures import failure_of_run, failure_of_step

POLL_S = 0.25
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""The screen shows progress; the whole log is in the Dagster instance."""


def execute(
    job: JobDefinition,
    task: str,
    stages: Sequence[str],
    send: SendEvent,
    run_config: Mapping[str, Any] = MappingProxyType({}),
    tags: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Materializes assets of one task, in the order of the flow.

    Args:
        job: The task's chain.
        task: Its name.
        stages: Assets to materialize.
        send: Hears of every stage.
        run_config: Of the run.
        tags: Of the run, besides the job's.

    Returns:
        The Dagster run's id.

    Raises:
        FinetuneError: With the problem and mend of the stage that failed.
    """
    run_id = str(uuid.uuid4())
    with DagsterInstance.get() as instance, Following(instance, run_id, send):
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            run_config={**QUIET, **run_config},
            tags=dict(tags),
            asset_selection=[AssetKey([task, stage]) for stage in stages],
            raise_on_error=False,
        )
        if not result.success:
            raise failure_of_run(instance, run_id)
    return run_id


class Following:
    """Sends a run's events while the block runs; the event log is read, so nothing depends on who executes."""

    def __init__(self, instance: DagsterInstance, run_id: str, send: SendEvent) -> None:
        self.instance, self.run_id, self.send = instance, run_id, send
        self.cursor: str | None = None
        self.started: set[str] = set()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._until_ended, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self.thread.join()
        self._read()

    def _until_ended(self) -> None:
        while not self.ended.wait(POLL_S):
            self._read()

    def _read(self) -> None:
        while True:
            page = self.instance.get_records_for_run(self.run_id, self.cursor)
            for record in page.records:
                event = stage_event(record.event_log_entry)
                if event is None:
                    continue
                if event.kind == "started":
                    self.started.add(event.stage)
                # Dagster also logs a line for every step that a failure keeps from starting.
                if event.stage in self.started:
                    self.send(event)
            self.cursor = page.cursor
            if not page.has_more:
                return


_KINDS: dict[DagsterEventType, Callable[[DagsterEvent], tuple[StageKind, str]]] = {
    DagsterEventType.STEP_START: lambda event: ("started", ""),
    DagsterEventType.STEP_SUCCESS: lambda event: ("succeeded", ""),
    DagsterEventType.STEP_FAILURE: lambda event: ("failed", failure_of_step(event).problem),
}


def stage_event(entry: EventLogEntry) -> StageEvent | None:
    """What an entry of the event log means for a stage; None for the many that mean nothing to a person."""
    if entry.step_key is None:
        return None
    stage = entry.step_key.rpartition("__")[2]
    if entry.dagster_event is None:
        return StageEvent(stage, "log", entry.user_message, entry.timestamp)
    kind = _KINDS.get(entry.dagster_event.event_type)
    if kind is None:
        return None
    name, message = kind(entry.dagster_event)
    return StageEvent(stage, name, message, entry.timestamp)
