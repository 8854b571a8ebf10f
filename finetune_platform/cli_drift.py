"""`finetune drift`: its name, options and help. What it does stands in `commands/drift.py`."""

from typing import Annotated

import typer

from finetune_platform.cli_options import Json, TaskName


def drift(
    task: TaskName,
    look: Annotated[bool, typer.Option("--look", help="Look at what was logged since the last look first.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="End the alarm: gather another reference from now on.")] = False,
    json: Json = False,
) -> None:
    """Show whether a task's traffic has changed since its champion took over, channel by channel."""
    from finetune_platform.commands.drift import drift as run

    run(task, look, anew, json)
