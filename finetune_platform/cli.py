"""`finetune`: names, options and help of the commands. Each calls one function; nothing is computed here.

Imports stand inside the commands, so that `finetune --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from finetune_platform.cli_base_model import base_model
from finetune_platform.cli_drift import drift
from finetune_platform.cli_ensemble import ensemble_app
from finetune_platform.cli_export import export
from finetune_platform.cli_labels import labels
from finetune_platform.cli_notify import notify_app
from finetune_platform.cli_options import AnyTask, Json, Reason, TaskName
from finetune_platform.cli_plan import plan
from finetune_platform.cli_route import route_app
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


class AuditCommands(TyperGroup):
    """`finetune audit [SUBJECT]` is short for `finetune audit show [SUBJECT]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    name="finetune",
    help="Keeps a narrow task's fine-tuned model good: from raw rows to a registered, evaluated adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

key_app = typer.Typer(help="API keys of the gateway: make, list, rotate, revoke.", no_args_is_help=True)
audit_app = typer.Typer(cls=AuditCommands, help="The audit log: who did what to whom and why.")
app.add_typer(key_app, name="key")
app.add_typer(audit_app, name="audit")
app.add_typer(route_app, name="route")
app.add_typer(ensemble_app, name="ensemble")
app.add_typer(notify_app, name="notify")
app.command("drift")(drift)
app.command("labels")(labels)
app.command("base-model")(base_model)
app.command("plan")(plan)
app.command("export")(export)


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
def loop(
    task: Annotated[str, typer.Argument(help="Name of a task.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show where a task's cycle stands: drift, experts, labels, retraining, rollout; what it costs and returns."""
    from finetune_platform.commands.loop import show

    show(task, json)


@app.command()
def retrain(
    task: Annotated[str, typer.Argument(help="Name of a task.")],
    accept_agreement: Annotated[
        bool, typer.Option("--accept-agreement", help="Take a batch in which people agree too little.")
    ] = False,
) -> None:
    """Retrain a task on its experts' labels now, whatever cooldown and budget say."""
    from finetune_platform.commands.retrain import retrain as run_retrain

    run_retrain(task, accept_agreement)


@app.command()
def demo(
    loop: Annotated[
        bool, typer.Option("--loop", help="A whole cycle: drift, alarm, labels, retraining, a better adapter.")
    ] = False,
) -> None:
    """Fine-tune a small real model for a real task on this machine, in a few minutes."""
    if loop:
        from finetune_platform.commands.loop_demo.command import demo_loop

        demo_loop()
        return
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


@key_app.command("create")
def key_create(
    name: Annotated[str, typer.Argument(help="What people call it: the application that holds it.")],
    task: Annotated[list[str], typer.Option("--task", help="A task that it may use, or * for all; again for more.")],
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="caller (default), operator, reviewer, lead or auditor; again for more."),
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant that it speaks for.")] = "",
    expires_days: Annotated[float | None, typer.Option("--expires-days", help="Default: it does not expire.")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", help="At each gateway; default: no limit.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option("--tokens-per-minute", help="At each gateway; default: no limit.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key; it is shown this once."""
    from finetune_platform.commands.keys import create

    create(name, role or ["caller"], task, tenant, expires_days, requests_per_minute, tokens_per_minute, json)


@key_app.command("list")
def key_list(json: Json = False) -> None:
    """List every key, without the keys themselves."""
    from finetune_platform.commands.keys import show

    show(json)


KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="As `finetune key list` shows it.")]


@key_app.command("rotate")
def key_rotate(
    key_id: KeyId,
    overlap_hours: Annotated[float, typer.Option("--overlap-hours", help="How long the old key is still good.")] = 0.0,
    json: Json = False,
) -> None:
    """Make a key of the same scope in place of an old one; it is shown this once."""
    from finetune_platform.commands.keys import rotate

    rotate(key_id, overlap_hours, json)


@key_app.command("revoke")
def key_revoke(
    key_id: KeyId,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the audit log.")],
    json: Json = False,
) -> None:
    """Take a key back for good, within a second on every gateway."""
    from finetune_platform.commands.keys import revoke

    revoke(key_id, reason, json)


@audit_app.command("show")
def audit_show(
    subject: Annotated[str | None, typer.Argument(help="A task's name or a key's id; everything without it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what was done, oldest first."""
    from finetune_platform.commands.audit import show

    show(subject, json)


@audit_app.command("verify")
def audit_verify(
    head: Annotated[
        str | None, typer.Option("--head", metavar="DIGEST", help="As an earlier verify printed it: must be there.")
    ] = None,
    json: Json = False,
) -> None:
    """Check that the log is what was written; exit code 1 where it is not."""
    from finetune_platform.commands.audit import verify

    raise typer.Exit(verify(head, json))


@app.command()
def doctor(json: Json = False) -> None:
    """Check this installation: versions, disk, GPU, addresses, write access; each with its mend."""
    from finetune_platform.commands.doctor import show_doctor

    raise typer.Exit(show_doctor(json))


@app.command()
def serve(
    port: Annotated[int | None, typer.Option("--port", help="Default: free, from 8000.")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    stop: Annotated[bool, typer.Option("--stop", help="Stop the gateway that the demo started.")] = False,
) -> None:
    """Serve every task at an OpenAI-compatible address; Ctrl-C stops it."""
    from finetune_platform.commands.serve import serve as run_gateway
    from finetune_platform.commands.serve import stop_background

    if stop:
        stop_background()
    else:
        run_gateway(host, port)


@app.command()
def index(task: TaskName) -> None:
    """Index the documents of a task's retrieval section; a corpus that has not changed is only read."""
    from finetune_platform.commands.retrieve import index_task

    index_task(task)


@app.command()
def retrieve(
    task: TaskName,
    question: Annotated[str, typer.Argument(help="As a user would ask it.")],
    count: Annotated[int | None, typer.Option("--count", "-k", min=1, help="Default: retrieval.top_k.")] = None,
    json: Json = False,
) -> None:
    """Show the passages that a question finds, with scores and places."""
    from finetune_platform.commands.retrieve import retrieve as show_passages

    show_passages(task, question, count, json)


@app.command()
def kill(
    task: AnyTask = None,
    everything: Annotated[bool, typer.Option("--all", help="Every task.")] = False,
    reason: Reason = "",
) -> None:
    """Send all traffic of a task to the base model, at once: the switch for emergencies."""
    from finetune_platform.commands.operate import kill as send_to_base

    send_to_base(task, everything, reason)


@app.command()
def revive(task: TaskName, reason: Reason) -> None:
    """End a kill: the route that stands is in force again."""
    from finetune_platform.commands.operate import revive as end_kill

    end_kill(task, reason)


@app.command()
def history(task: TaskName, json: Json = False) -> None:
    """Show which adapter served what share of a task's traffic when, since the first day."""
    from finetune_platform.commands.operate import show_history

    show_history(task, json)


rollout_app = typer.Typer(help="Rollouts: how a new adapter earns traffic, and is taken back.", no_args_is_help=True)
app.add_typer(rollout_app, name="rollout")


@rollout_app.command("start")
def rollout_start(
    task: TaskName,
    adapter: Annotated[str | None, typer.Argument(metavar="[ADAPTER]", help="Default: the task's candidate.")] = None,
    reason: Reason = "",
) -> None:
    """Start a rollout."""
    from finetune_platform.commands.operate import start_rollout

    start_rollout(task, adapter, reason)


@rollout_app.command("status")
def rollout_status(task: AnyTask = None, json: Json = False) -> None:
    """Show where rollouts stand, with the evidence for and against."""
    from finetune_platform.commands.operate import show_rollout

    show_rollout(task, json)


@rollout_app.command("step")
def rollout_step(task: TaskName, reason: Reason) -> None:
    """Take the next step now, whatever the evidence says."""
    from finetune_platform.commands.operate import operate

    operate(task, "step", reason)


@rollout_app.command("hold")
def rollout_hold(task: TaskName, reason: Reason) -> None:
    """Keep the share as it is; guardrails go on watching."""
    from finetune_platform.commands.operate import operate

    operate(task, "hold", reason)


@rollout_app.command("resume")
def rollout_resume(task: TaskName, reason: Reason) -> None:
    """Go on from a hold."""
    from finetune_platform.commands.operate import operate

    operate(task, "resume", reason)


@rollout_app.command("abort")
def rollout_abort(task: TaskName, reason: Reason) -> None:
    """End the rollout without a verdict on the adapter."""
    from finetune_platform.commands.operate import operate

    operate(task, "abort", reason)


@rollout_app.command("rollback")
def rollout_rollback(task: TaskName, reason: Reason) -> None:
    """Take the canary back; where no rollout is under way, the champion."""
    from finetune_platform.commands.operate import operate

    operate(task, "rollback", reason)


if __name__ == "__main__":
    app()
