"""`finetune`: names, options and help of the commands. Each calls one function; nothing is computed here.

Imports stand inside the commands, so that `finetune --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from finetune_platform.errors import FinetuneError


class Commands(TyperGroup):
    """The commands; a `FinetuneError` from any of them becomes a message with its mend and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FinetuneError as error:
            if ctx.params.get("debug"):
                raise
            from finetune_platform.commands.terminal import print_error

            print_error(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            # 130 is what shells give for Ctrl-C; without it a script takes an interrupted run for a failed one.
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    cls=Commands,
    name="finetune",
    help="Keeps a narrow task's fine-tuned model good: from raw rows to a registered, evaluated adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Name of a task, or the path of its file.")]
AnyTask = Annotated[str | None, typer.Argument(metavar="[TASK]", help="Name or path; every task without it.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False) -> None:
    """Options before the command."""
    # As `python -m` does, and Dagster too: a task's own metrics stand in the working folder.
    sys.path.append(str(Path.cwd()))


@app.command()
def init(name: Annotated[str, typer.Argument(help="Lower case, digits and underscores: support_tickets.")]) -> None:
    """Write a commented task file, tasks/NAME.yaml."""
    from finetune_platform.commands.init import init_task

    init_task(name)


@app.command()
def validate(task: AnyTask = None, json: Json = False) -> None:
    """Check task files and what they point to: sources, base model, metrics."""
    from finetune_platform.commands.validate import validate_tasks

    raise typer.Exit(validate_tasks(task, json))


@app.command()
def run(
    task: TaskName,
    start: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="First stage.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="STAGE", help="Last stage.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Make stages again that are in place.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line: events, then the result.")] = False,
) -> None:
    """Run a task's chain: raw_examples, curated_dataset, trained_adapter, evaluation_report, registered_adapter."""
    from finetune_platform.commands.run import run_task

    run_task(task, start, end, force, json)


@app.command()
def demo() -> None:
    """Fine-tune a small real model for a real task on this machine, in a few minutes."""
    from finetune_platform.commands.demo import demo as run_demo

    run_demo()


@app.command()
def up(
    port: Annotated[int | None, typer.Option("--port", help="Of the Dagster UI; default: free, from 3000.")] = None,
    mlflow_port: Annotated[
        int | None, typer.Option("--mlflow-port", help="Of the MLflow UI; default: free, from 5000.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Start the Dagster UI and daemon and the MLflow UI; Ctrl-C stops all."""
    from finetune_platform.commands.up import up as start_all

    raise typer.Exit(start_all(port, mlflow_port, host))


@app.command()
def status(task: AnyTask = None, json: Json = False) -> None:
    """Show what each task has: artifacts, what is stale and why, champion and candidate."""
    from finetune_platform.commands.status import show_status

    show_status(task, json)


@app.command()
def lineage(
    adapter: Annotated[str, typer.Argument(help="An artifact's id (ad-…), or a task's name for its champion.")],
    rows: Annotated[bool, typer.Option("--rows", help="List the rows of its dataset too.")] = False,
    json: Json = False,
) -> None:
    """Walk back from an adapter to its evaluation, training run, dataset, sources and rows."""
    from finetune_platform.commands.lineage import show_lineage

    show_lineage(adapter, rows, json)


@app.command()
def trace(
    row: Annotated[str, typer.Argument(help="ex-…, or FILE:ROW as reports and errors print it.")],
    json: Json = False,
) -> None:
    """Follow a row forward to the datasets, training runs and adapters that it reached."""
    from finetune_platform.commands.trace import show_trace

    show_trace(row, json)


@app.command()
def doctor(json: Json = False) -> None:
    """Check this installation: versions, disk, GPU, addresses, write access; each with its mend."""
    from finetune_platform.commands.doctor import show_doctor

    raise typer.Exit(show_doctor(json))


if __name__ == "__main__":
    app()
