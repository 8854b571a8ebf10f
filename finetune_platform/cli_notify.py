"""`finetune notify …`: names, options and help of its commands. Each calls one function of `commands/notify.py`."""

from typing import Annotated

import typer

from finetune_platform.cli_options import AnyTask, Json

notify_app = typer.Typer(help="Notifications: who hears of alarms, rollbacks, failed runs.", no_args_is_help=True)


@notify_app.command("test")
def notify_test(task: AnyTask = None, json: Json = False) -> None:
    """Send a test message to a task's targets, or to all, and say what came of each."""
    from finetune_platform.commands.notify import send_test

    raise typer.Exit(send_test(task, json))


@notify_app.command("show")
def notify_show(
    task: AnyTask = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="The newest so many.")] = 20,
    json: Json = False,
) -> None:
    """Show what was announced, and who was told."""
    from finetune_platform.commands.notify import show

    show(task, count, json)


@notify_app.command("send")
def notify_send() -> None:
    """Send what waits now; Dagster's daemon and the gateways do it by themselves."""
    from finetune_platform.commands.notify import send

    raise typer.Exit(send())
