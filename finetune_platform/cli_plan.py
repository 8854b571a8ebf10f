"""`finetune plan`: its name, options and help. What it does stands in `commands/plan.py`."""

from typing import Annotated

import typer

from finetune_platform.cli_options import Json, TaskName


def plan(
    task: TaskName,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="Not this machine, but: H100, L4 …")] = None,
    json: Json = False,
) -> None:
    """Predict memory, time and cost of a task's training; exit code 1 where it does not fit."""
    from finetune_platform.commands.plan import plan as run

    run(task, gpu, json)
