"""Sends what waits: messages from the outbox to the targets of their tasks, until nothing is left to send now.

A target that does not take a message never keeps another one from having it, and is not asked again in the same round.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.notifications.messages import text_of
from finetune_platform.notifications.outbox import Message, claim, finish, note_delivered
from finetune_platform.notifications.targets import TIMEOUT_S, Target, chosen, deliver, targets_of
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_notifications import Notifications

ROUND_S = 30.0
"""No further message is begun after so long: a sensor's tick has 60 s."""

CLAIM = timedelta(minutes=1)
"""Of a message, besides what its targets may take."""


class Sent(NamedTuple):
    """What a round came to: messages that every target took, and what the others said, by target."""

    messages: int
    problems: dict[str, str]

    @property
    def words(self) -> str:
        told = f"{self.messages} message{'' if self.messages == 1 else 's'} sent"
        return "; ".join([told, *(f"{target}: {problem}" for target, problem in self.problems.items())])


def send_waiting(database: Database, tasks: Sequence[Task], place: Settings) -> Sent:
    """One round.

    Args:
        database: Whose announcements.
        tasks: Their `notifications` sections say who hears of what.
        place: The installation: targets and public addresses.

    Raises:
        BadInput: NOTIFY_URLS cannot be read.
        FinetuneError: The database does not answer.
    """
    targets = targets_of(place.notify_urls.get_secret_value())
    if not targets:
        return Sent(0, {})
    sections = {task.name: task.notifications for task in tasks}
    claim_for = CLAIM + len(targets) * timedelta(seconds=TIMEOUT_S)
    deadline = time.monotonic() + ROUND_S
    count, down = 0, dict[str, str]()
    while time.monotonic() < deadline:
        message = claim(database, sections, datetime.now(UTC), claim_for)
        if message is None:
            break
        problems = _send(database, message, sections, targets, place, down)
        finish(database, message, problems, datetime.now(UTC))
        count += not problems
    return Sent(count, down)


def _send(
    database: Database,
    message: Message,
    sections: Mapping[str, Notifications],
    targets: Sequence[Target],
    place: Settings,
    down: dict[str, str],
) -> dict[str, str]:
    """Hands a message to those who do not have it; why not, by target. `down` is what went wrong in this round."""
    try:
        wanted = chosen(targets, sections.get(message.task, Notifications()).to, message.task)
    except BadInput as error:
        down["NOTIFY_URLS"] = error.problem
        return {"NOTIFY_URLS": error.problem}
    text = text_of(message.events, place)
    problems = {}
    for target in wanted:
        if target.name in message.done:
            continue
        problem = down.get(target.name) or deliver(target, *text)
        if problem:
            problems[target.name] = down[target.name] = problem
        else:
            note_delivered(database, message, target.name, datetime.now(UTC))
    return problems
