"""Where one reads on from a station: pages of the gateway and of Dagster, files in the lake, commands."""

from typing import NamedTuple
from urllib.parse import quote

from finetune_platform.announcements import dagster_page
from finetune_platform.lake import Lake
from finetune_platform.loop.stations import Station
from finetune_platform.notifications.messages import link_of
from finetune_platform.settings import Settings
from finetune_platform.task import Task

ASSETS = {
    "drift": "drift_report",
    "experts": "review_batch",
    "labels": "expert_labels",
    "retraining": "trained_adapter",
    "evaluation": "evaluation_report",
    "rollout": "rollout",
}
"""What a station makes, as Dagster calls it."""


class Way(NamedTuple):
    """One place to go: a link where a browser can open it, else something to copy.

    Attributes:
        address: "" where a browser cannot go there.
        copied: A command, or a place in the lake.
    """

    words: str
    address: str = ""
    copied: str = ""


def ways_from(station: Station, task: Task, lake: Lake, place: Settings) -> list[Way]:
    """Where one reads on from a station, the nearest first.

    Args:
        station: Of the task's cycle.
        task: Whose.
        lake: Where its report is.
        place: Knows Dagster's address, where it has one.
    """
    ways = [*_pages(station, task)]
    if station.report:
        ways.append(Way("report", copied=lake.url_of(station.report)))
    if command := _command(station, task):
        ways.append(Way("command", copied=command))
    if station.name in ASSETS:
        address = link_of(dagster_page(f"assets/{quote(task.name)}/{ASSETS[station.name]}"), place)
        if address:
            ways.append(Way("Dagster", address))
    return ways


def _pages(station: Station, task: Task) -> list[Way]:
    """Pages beside this one, at the same gateway."""
    named = f"?task={quote(task.name)}"
    if station.name in ("champion", "rollout"):
        return [Way("operator's page", f"/operator/{named}")]
    if station.name == "experts":
        studio = task.labeling.label_studio
        rows = Way("Label Studio", studio.url) if studio else Way("rows to review", f"/review/rows{named}")
        return [rows, Way("agreement", f"/review/figures{named}")]
    return []


def _command(station: Station, task: Task) -> str:
    if station.name == "drift":
        return f"finetune drift {task.name}"
    if station.name == "labels":
        return f"finetune labels {task.name}"
    return f"finetune retrain {task.name}" if station.name == "retraining" and station.state == "waiting" else ""
