"""`finetune ensemble …`: names, options and help of its commands. Each calls one function of `commands/ensemble.py`."""

from typing import Annotated

import typer

from finetune_platform.cli_options import Json

ensemble_app = typer.Typer(help="Ensembles: one model name in front of several tasks.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of an ensemble: ensembles/NAME.yaml beside the task files.")]


@ensemble_app.command("build")
def ensemble_build(name: Name, json: Json = False) -> None:
    """Train the classifier from the tasks' own datasets, and judge it on their test splits."""
    from finetune_platform.commands.ensemble import build

    build(name, json)


@ensemble_app.command("show")
def ensemble_show(name: Name, json: Json = False) -> None:
    """Show what the classifier was built of and what it is worth."""
    from finetune_platform.commands.ensemble import show

    show(name, json)
