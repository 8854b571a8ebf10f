"""`new_data`: files dropped under a task's `raw/` folder start its chain, once for each state of the folder.

The sensor is a state machine over the runs that carry the folder's fingerprint as a tag (`attempts.py`); the cursor
only saves it work.
"""

import json
import time
from typing import NamedTuple

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from finetune_platform.identity import content_id
from finetune_platform.lake import Lake
from finetune_platform.sensors.attempts import attempt
from finetune_platform.sensors.chain import TASK_TAG
from finetune_platform.task import Task

FINGERPRINT_TAG = "finetune/new_data"


class Cursor(NamedTuple):
    """What the sensor knows: the fingerprint it settled, and the one it saw at the last tick."""

    settled: str = ""
    seen: str = ""

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """A cursor of an earlier tick; one that cannot be read is an empty one, which repeats no work."""
        try:
            values = json.loads(text or "{}")
            return cls(str(values.get("settled", "")), str(values.get("seen", "")))
        except (ValueError, AttributeError):
            return cls()

    def write(self) -> str:
        return json.dumps(self._asdict())


def fingerprint(task: Task, lake: Lake) -> str | None:
    """Content address of the listing of `{task}/raw/`, None while it is empty."""
    files = lake.list(f"{task.name}/raw/")
    return content_id("nd", [[f.path, f.size, f.etag] for f in files]) if files else None


def new_data_sensor(task: Task, job: UnresolvedAssetJobDefinition, interval_s: int = 30) -> SensorDefinition:
    """`{task}_new_data` for one task."""

    @sensor(
        name=f"{task.name}_new_data",
        job=job,
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Runs the chain when the files under {task.name}/raw/ in the lake change.",
        required_resource_keys={"lake"},
    )
    def evaluate(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        return tick(task, context.resources.lake, context.instance, Cursor.read(context.cursor), time.time())

    return evaluate


def tick(task: Task, lake: Lake, instance: DagsterInstance, cursor: Cursor, now: float) -> SensorResult:
    """One step of the state machine.

    Args:
        task: Whose folder.
        lake: Where the folder is.
        instance: Whose runs tell what has been done for a fingerprint.
        cursor: Of the last tick.
        now: Unix time in seconds.
    """
    current = fingerprint(task, lake)
    if current is None:
        return _wait(cursor, f"{task.name}/raw/ is empty")
    if current == cursor.settled:
        return _wait(cursor, f"{current} is settled")
    if current != cursor.seen:
        # A file still being copied changes between two ticks; wait for the folder to rest.
        return _wait(cursor._replace(seen=current), f"{current} is new; it must be the same at the next tick")
    tags = {FINGERPRINT_TAG: current, TASK_TAG: task.name}
    outcome = attempt(instance, tags, f"{task.name}-{current}", now)
    if outcome.request is not None:
        return SensorResult(run_requests=[outcome.request], cursor=cursor.write())
    return _wait(cursor._replace(settled=current) if outcome.settled else cursor, f"{current}: {outcome.reason}")


def _wait(cursor: Cursor, reason: str) -> SensorResult:
    return SensorResult(skip_reason=SkipReason(reason), cursor=cursor.write())
