"""`finetune labels`: its name, options and help. What it does stands in `commands/labels.py`."""

from typing import Annotated

import typer

from finetune_platform.cli_options import Json, TaskName


def labels(
    task: TaskName,
    sync: Annotated[
        bool,
        typer.Option("--sync", help="First send batches to Label Studio and fetch what people said there."),
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Sync; open rows whose project in Label Studio is lost go into another.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a task's batches of rows for experts: how far they are, how far people agree, and who did what."""
    from finetune_platform.commands.labels import labels as run

    run(task, sync or anew, anew, json)
