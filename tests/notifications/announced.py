"""Events to announce, and installations that name who hears of them. Fixtures belong in conftest.py."""

from typing import Any

from finetune_platform.announcements import Event
from finetune_platform.settings import Settings
from finetune_platform.task_notifications import Kind


def place_of(*urls: str, **more: Any) -> Settings:
    return Settings(notify_urls=", ".join(urls), **more)


def event(number: int = 1, kind: Kind = "run_failed", task: str = "ticket_topics") -> Event:
    return Event(
        kind=kind,
        task=task,
        subject=f"s-{number}",
        what=f"event {number} happened",
        link="dagster:runs/abc",
        next_step="`finetune status`",
    )
