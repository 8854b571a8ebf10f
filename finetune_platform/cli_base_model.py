"""`finetune base-model`: its name, options and help. What it does stands in `commands/base_model.py`."""

from typing import Annotated

import typer

from finetune_platform.cli_options import Json, Reason, TaskName


def base_model(
    task: TaskName,
    accept: Annotated[bool, typer.Option("--accept", help="Note that you agree to it; needs --reason.")] = False,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Show what a newer revision of a task's base model would bring, and how to move to it."""
    from finetune_platform.commands.base_model import base_model as run

    run(task, accept, reason, json)
