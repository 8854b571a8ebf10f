"""The library's failures in Dagster's terms, and back: problem and mend as the description, retries by type."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, Failure, MetadataValue

from finetune_platform import errors
from finetune_platform.errors import FinetuneError, GatesFailed, PermanentError, TransientError

TYPES: dict[str, type[FinetuneError]] = {
    cls.__name__: cls
    for cls in (errors.BadInput, errors.StorageFailed, errors.Unreachable, PermanentError, TransientError)
}


def failure(error: FinetuneError) -> Failure:
    """The Dagster failure of an error that a user can mend; only transient ones may be retried."""
    return Failure(
        description=str(error),
        metadata={"problem": error.problem, "mend": error.mend, "type": MetadataValue.text(type(error).__name__)},
        allow_retries=isinstance(error, TransientError),
    )


@contextmanager
def user_failures() -> Iterator[None]:
    """Turns the library's errors inside the block into failures of the step."""
    try:
        yield
    except FinetuneError as error:
        raise failure(error) from error


def failure_of_run(instance: DagsterInstance, run_id: str) -> FinetuneError:
    """What ended a failed run, as the library raised it where it did."""
    event = _first_failure(instance, run_id)
    if event is None:
        return TransientError(f"run {run_id} ended before a step did", "read its log: `finetune up`")
    return failure_of_step(event)


def failed_step_of_run(instance: DagsterInstance, run_id: str) -> str | None:
    """The asset whose step failed first; None where the run ended without one."""
    event = _first_failure(instance, run_id)
    return None if event is None or event.step_key is None else event.step_key.rpartition("__")[2]


def _first_failure(instance: DagsterInstance, run_id: str) -> DagsterEvent | None:
    entries = instance.all_logs(run_id, of_type={DagsterEventType.STEP_FAILURE})
    return next((entry.dagster_event for entry in entries if entry.dagster_event is not None), None)


def failure_of_step(event: DagsterEvent) -> FinetuneError:
    """What a STEP_FAILURE event tells."""
    data = event.step_failure_data
    read_log = "read the run's log: `finetune up`"
    if (told := data.user_failure_data) is not None and told.description:
        problem, _, mend = told.description.partition("\n  mend: ")
        kind = (
            TYPES.get(str(told.metadata["type"].value), PermanentError) if "type" in told.metadata else PermanentError
        )
        return kind(problem, mend or read_log)
    error = data.error
    while error is not None and error.cause is not None:  # Dagster wraps what the step raised.
        error = error.cause
    name, message = (error.cls_name, error.message.strip()) if error else ("", str(event.message))
    if name in TYPES:  # Raised where no step's code was yet, as when its inputs are read.
        problem, _, mend = message.removeprefix(f"{TYPES[name].__module__}.{name}: ").partition("\n  mend: ")
        return TYPES[name](problem, mend or read_log)
    if name == "DagsterExecutionInterruptedError":
        return TransientError("the run was interrupted; nothing is lost", "the same command goes on from there")
    if name == "DagsterAssetCheckFailedError":
        checks = [line.strip() for line in message.splitlines()[1:] if line.strip()]
        return GatesFailed(
            f"blocking checks failed: {', '.join(checks)}", "open the report; `finetune status` has its place"
        )
    return PermanentError(message, read_log)
