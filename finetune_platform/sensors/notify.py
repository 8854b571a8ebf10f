"""`notify`: one sensor for the location that sends what was announced. What a message says is `notifications/`'s."""

from collections.abc import Sequence

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from finetune_platform.database import Database
from finetune_platform.notifications.outbox import waiting
from finetune_platform.notifications.sender import send_waiting
from finetune_platform.settings import Settings
from finetune_platform.task import Task


def notify_sensor(tasks: Sequence[Task], place: Settings, interval_s: int = 30) -> SensorDefinition:
    """The sensor for all tasks: they share the targets, and one sender is as fast as many.

    Args:
        tasks: Their `notifications` sections say who hears of what.
        place: The installation. Not a resource: the UI shows what resources are made of, and targets hold passwords.
    """

    @sensor(
        name="notify",
        minimum_interval_seconds=interval_s,
        default_status=DefaultSensorStatus.RUNNING,
        description="Sends what was announced of all tasks to the targets in NOTIFY_URLS.",
        required_resource_keys={"database"},
    )
    def evaluate(context: SensorEvaluationContext) -> SkipReason:
        return SkipReason(round_of(context.resources.database, tasks, place))

    return evaluate


def round_of(database: Database, tasks: Sequence[Task], place: Settings) -> str:
    """One round, and what it came to in words; it starts no run."""
    if not place.notify_urls.get_secret_value():
        return f"NOTIFY_URLS is not set; events that wait: {waiting(database)}"
    return f"{send_waiting(database, tasks, place).words}; events that wait: {waiting(database)}"
