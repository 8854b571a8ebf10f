"""What a message says: an event in words, its link, the next step; several events in one.

Which events go into a message is decided in `outbox.py`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from finetune_platform.announcements import Notification
from finetune_platform.notifications.targets import Tone
from finetune_platform.settings import Settings
from finetune_platform.task_notifications import Kind

TITLES: Mapping[Kind, str] = {
    "alarm": "traffic has changed",
    "batch_waiting": "rows wait for reviewers",
    "low_agreement": "reviewers do not agree",
    "gate_failed": "a new adapter was not let through",
    "rollback": "an adapter was taken back",
    "promotion": "a new champion",
    "hold": "a rollout is held",
    "budget_reached": "the month's budget is reached",
    "run_failed": "a run failed",
    "base_model_update": "the base model has a newer revision",
}
TONES: Mapping[Kind, Tone] = {
    "alarm": "warning",
    "low_agreement": "warning",
    "gate_failed": "warning",
    "rollback": "failure",
    "promotion": "success",
    "hold": "warning",
    "budget_reached": "warning",
    "run_failed": "failure",
}
"""The others are `info`."""

MOST_IN_A_BUNDLE = 30
"""Events told one by one in a bundle; of those beyond only their number is told."""


class Text(NamedTuple):
    """A message as a service takes it."""

    title: str
    body: str
    tone: Tone


def text_of(events: Sequence[Notification], place: Settings) -> Text:
    """One event in full, or several in a line each.

    Args:
        events: Of one task, one or more, oldest first.
        place: Whose addresses links begin with.
    """
    if len(events) == 1:
        return _one(events[0], place)
    lines = [f"- {_title(e)}: {_first_line(e.what)}" for e in events[:MOST_IN_A_BUNDLE]]
    if (beyond := len(events) - MOST_IN_A_BUNDLE) > 0:
        lines.append(f"… and {beyond} more")
    next_step = f"next: `finetune notify show {events[0].task}`".rstrip()
    return Text(f"{_whose(events[0])}: {len(events)} more", "\n".join([*lines, next_step]), "warning")


def link_of(link: str, place: Settings) -> str:
    """An announcement's link as an address; "" where the installation's settings do not name its public one."""
    where, _, path = link.partition(":")
    if where == "lake" and place.lake_is_local:
        return f"{place.lake_url}/{path}"
    base = {"dagster": place.dagster_url, "gateway": place.gateway_url, "lake": place.lake_url}.get(where, "")
    return f"{base}/{path}" if base else ""


def _one(event: Notification, place: Settings) -> Text:
    link = link_of(event.link, place)
    lines = [event.what, *([link] if link else []), f"next: {event.next_step}"]
    return Text(f"{_whose(event)}: {_title(event)}", "\n".join(lines), TONES.get(event.kind, "info"))  # type: ignore[call-overload]


def _whose(event: Notification) -> str:
    return event.task or "finetune"


def _title(event: Notification) -> str:
    # A newer version may have announced a kind that this one has no words for.
    return TITLES.get(event.kind, event.kind.replace("_", " "))  # type: ignore[call-overload]


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
