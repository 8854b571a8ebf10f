"""`finetune route …`: names, options and help of its commands. Each calls one function of `commands/route.py`."""

from typing import Annotated

import typer

from finetune_platform.cli_options import Json, Reason, TaskName

route_app = typer.Typer(help="Who answers a task's requests, changed by hand.", no_args_is_help=True)

Adapter = Annotated[str, typer.Argument(metavar="ADAPTER", help="A registered adapter of the task: ad-….")]


@route_app.command("show")
def route_show(task: TaskName, json: Json = False) -> None:
    """Show a task's route: champion, canary or A/B test, shadow, tenants, what is withdrawn."""
    from finetune_platform.commands.route import show

    show(task, json)


@route_app.command("ab")
def route_ab(
    task: TaskName,
    adapter: Adapter,
    reason: Reason,
    share: Annotated[float, typer.Option("--share", help="Of the sessions, in percent.")] = 50.0,
) -> None:
    """Split the sessions between the champion and another adapter, until `clear`; nothing moves by itself."""
    from finetune_platform.commands.route import start_ab

    start_ab(task, adapter, share, reason)


@route_app.command("shadow")
def route_shadow(
    task: TaskName,
    adapter: Adapter,
    reason: Reason,
    share: Annotated[float, typer.Option("--share", help="Of the sessions, in percent.")] = 100.0,
) -> None:
    """Let an adapter answer copies of requests; nobody is shown its answers."""
    from finetune_platform.commands.route import start_shadow

    start_shadow(task, adapter, share, reason)


@route_app.command("tenant")
def route_tenant(
    task: TaskName,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="As its keys name it.")],
    reason: Reason,
    adapter: Annotated[str | None, typer.Argument(metavar="[ADAPTER]", help="Answers all of the tenant's.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="The task's own route answers it again.")] = False,
) -> None:
    """Give a tenant an adapter of its own, which no other tenant can reach."""
    from finetune_platform.commands.route import change_tenant

    change_tenant(task, tenant, adapter, remove, reason)


@route_app.command("clear")
def route_clear(task: TaskName, reason: Reason) -> None:
    """End an A/B test and a shadow."""
    from finetune_platform.commands.route import clear

    clear(task, reason)


@route_app.command("compare")
def route_compare(task: TaskName, json: Json = False) -> None:
    """Compare the sides of an A/B test: good answers, errors, slow answers and more, with intervals."""
    from finetune_platform.commands.route import show_comparison

    show_comparison(task, json)
