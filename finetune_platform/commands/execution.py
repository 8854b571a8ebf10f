"""Runs a task's chain in this process, on the installation's Dagster instance, and tells what happens as it happens.

The run is an ordinary one: the Dagster UI shows its log, its assets and its checks. Drawing belongs in `live.py`.
"""

import threading
import time
import uuid
from collections.abc import Callable

from dagster import AssetKey, DagsterEvent, DagsterEventType, DagsterInstance, EventLogEntry

from finetune_platform.commands.installation import find_task
from finetune_platform.commands.live import Send, StageEvent
from finetune_platform.commands.status import stages_in_place
from finetune_platform.definitions import build_defs
from finetune_platform.errors import FinetuneError, PermanentError
from finetune_platform.registry.artifacts import CHAIN

POLL_S = 0.25
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""The screen shows progress; the whole log is in the Dagster instance."""


def run_chain(task: str, start: str, end: str, force: bool, send: Send) -> str:
    """Materializes the stages from `start` to `end`, from the first one on that is not in place.

    Args:
        task: Its name.
        start: First asset.
        end: Last asset.
        force: Run stages that are in place too.
        send: Hears of every stage.

    Returns:
        The Dagster run's id; empty where everything was in place.

    Raises:
        FinetuneError: With the problem and mend of the stage that failed.
    """
    chain = list(CHAIN)
    stages = chain[chain.index(start) : chain.index(end) + 1]
    skipped = [] if force else stages_in_place(find_task(task), stages)
    for stage in skipped:
        send(StageEvent(stage, "skipped", "in place", time.time()))
    wanted = stages[len(skipped) :]
    if not wanted:
        return ""
    job = build_defs().resolve_job_def(f"{task}_chain")
    run_id = str(uuid.uuid4())
    with DagsterInstance.get() as instance, _follow(instance, run_id, send):
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            run_config=QUIET,
            asset_selection=[AssetKey([task, stage]) for stage in wanted],
            raise_on_error=False,
        )
        if not result.success:
            raise _failure(instance, run_id)
    return run_id


class _follow:
    """Sends a run's events while the block runs; the event log is read, so nothing depends on who executes."""

    def __init__(self, instance: DagsterInstance, run_id: str, send: Send) -> None:
        self.instance, self.run_id, self.send = instance, run_id, send
        self.cursor: str | None = None
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
                if event := stage_event(record.event_log_entry):
                    self.send(event)
            self.cursor = page.cursor
            if not page.has_more:
                return


_KINDS: dict[DagsterEventType, Callable[[DagsterEvent], tuple[str, str]]] = {
    DagsterEventType.STEP_START: lambda event: ("started", ""),
    DagsterEventType.STEP_SUCCESS: lambda event: ("succeeded", ""),
    DagsterEventType.STEP_FAILURE: lambda event: ("failed", _problem(event)),
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
    return StageEvent(stage, name, message, entry.timestamp)  # type: ignore[arg-type]


def _problem(event: DagsterEvent) -> str:
    failure = event.step_failure_data.user_failure_data
    if failure is not None and failure.description:
        return failure.description
    error = event.step_failure_data.error
    return str(error.message if error else event.message).strip()


def _failure(instance: DagsterInstance, run_id: str) -> FinetuneError:
    """The failure of the step that ended the run, as the library raised it where it did."""
    entries = instance.all_logs(run_id, of_type={DagsterEventType.STEP_FAILURE})
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    if not events:
        return PermanentError(f"run {run_id} failed before its first step", "`finetune up`, and read the run's log")
    problem, _, mend = _problem(events[0]).partition("\n  mend: ")
    return PermanentError(problem, mend or f"read the log of run {run_id}: `finetune up`")
