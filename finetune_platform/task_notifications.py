"""The task file's section about notifications: which events are told, to whom, how many. Sending: `notifications/`."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from finetune_platform.strict import Strict

Kind = Literal[
    "alarm",
    "batch_waiting",
    "low_agreement",
    "gate_failed",
    "rollback",
    "promotion",
    "hold",
    "budget_reached",
    "run_failed",
    "base_model_update",
]
"""What may happen that a person wants to hear of."""

KINDS: tuple[Kind, ...] = get_args(Kind)

TargetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class Notifications(Strict):
    """Who hears of what.

    `to` are names of targets in the setting NOTIFY_URLS; none means all of them. Of one task at most `most_per_hour`
    messages are sent in an hour; the last of them brings what else waits in a bundle. Rollbacks are not counted.
    """

    to: list[TargetName] = []
    kinds: list[Kind] = list(KINDS)
    most_per_hour: int = Field(default=10, ge=1)
