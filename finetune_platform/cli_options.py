"""Arguments and options that several commands share: the same word means the same everywhere. No commands here."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Name of a task, or the path of its file.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the audit log.")]
AnyTask = Annotated[str | None, typer.Argument(metavar="[TASK]", help="Name or path; every task without it.")]
