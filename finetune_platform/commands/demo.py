"""`finetune demo`: a small real model becomes a registered, evaluated adapter for a real task, on this machine."""

import itertools
import json
from pathlib import Path

from rich.text import Text

from finetune_platform.commands.installation import find_task, open_database, open_lake, read_settings
from finetune_platform.commands.live import stage_view
from finetune_platform.commands.operate import actor
from finetune_platform.commands.run import STAGES, latest_manifest
from finetune_platform.commands.status import stages_in_place
from finetune_platform.commands.summary import render_result
from finetune_platform.commands.terminal import console
from finetune_platform.errors import PermanentError
from finetune_platform.manifests import AdapterManifest, EvaluationManifest
from finetune_platform.serving import routes
from finetune_platform.serving.keys import create_key
from finetune_platform.serving.plan import Plan, choose, session_key
from finetune_platform.task import Task

DEMO_TASK = "contract_entities"
EXAMPLE = "This Agreement is made between Silicon Valley Bank, a California corporation, and the Borrower."


def demo() -> None:
    """Makes the demo task's chain, or says that everything is in place, shows what came of it and serves it.

    Raises:
        FinetuneError: Whatever ended a stage; the same command goes on from there.
    """
    task = find_task(DEMO_TASK)
    out = console()
    out.print(f"[bold]{task.name}[/bold]: {task.description}")
    if stages_in_place(task, STAGES) == list(STAGES):
        out.print("Everything is in place; nothing was run. `finetune run contract_entities --force` runs it again.")
    else:
        _make(task)
    _show(task)
    _serve(task)


def _make(task: Task) -> None:
    from finetune_platform.commands.dagster_home import prepare
    from finetune_platform.inference.base_models import resolve_base_model

    place, out = read_settings(), console()
    prepare(place)
    model = resolve_base_model(
        task.base_model, task.folder, open_lake(), place.cache_dir, lambda line: out.print(line, style="dim")
    )
    out.print(f"base model {model.name}@{model.revision} is ready")
    from finetune_platform.commands.execution import run_chain

    with stage_view(STAGES) as send:
        run_chain(task.name, STAGES[0], STAGES[-1], False, send)


def _show(task: Task) -> None:
    lake, database = open_lake(), open_database()
    evaluation = latest_manifest(lake, database, task, "evaluation_report")
    adapter = latest_manifest(lake, database, task, "registered_adapter")
    if not isinstance(evaluation, EvaluationManifest) or not isinstance(adapter, AdapterManifest):
        raise PermanentError(f"{task.name}: the chain ended without an adapter", f"finetune status {task.name}")
    console().print(render_result(task, evaluation, adapter))


def _serve(task: Task) -> None:
    """The adapter as a canary behind a gateway that outlives this command, and a request to paste."""
    from finetune_platform.commands.serve import serve_in_background

    out = console()
    address = serve_in_background()
    key = _demo_key(task)
    with open_database().reading() as session:
        plan = routes.current(session, task.name).plan
    share = f"{100 * plan.canary_share:g}% of the sessions" if plan.canary else "all sessions"
    out.print(
        Text("serving", "bold")
        + Text(f"  {address}/v1: {plan.canary or plan.champion or 'the base model'} answers {share}")
    )
    session_id = _session_on_canary(task, plan)
    body = {"model": task.name, "messages": [{"role": "user", "content": EXAMPLE}]}
    out.print(
        Text("  paste this; the session is one that the canary answers, the header x-finetune-adapter says so", "dim")
    )
    out.print(
        f"  curl -si {address}/v1/chat/completions -H 'content-type: application/json' "
        f"-H \"authorization: Bearer $(cat {key})\" -H 'x-session-id: {session_id}' -d '{json.dumps(body)}'",
        style="cyan",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    out.print("  finetune rollout status   what the traffic says of the canary", style="dim")
    out.print("  finetune serve --stop     stops the gateway", style="dim")


def _demo_key(task: Task) -> Path:
    """A file with a key for the demo's task, made at the first run; only this user can read it."""
    path = read_settings().finetune_home / "demo_key"
    if not path.is_file():
        key, _ = create_key(
            open_database(), name="demo", roles=["caller"], tasks=[task.name], known_tasks=[task.name], actor=actor()
        )
        path.touch(mode=0o600)
        path.write_text(key, encoding="utf-8")
    return path


def _session_on_canary(task: Task, plan: Plan) -> str:
    names = (f"demo-{number}" for number in itertools.count(1))
    return next(
        name for name in names if plan.canary is None or choose(plan, task.name, session_key("", name)).arm == "canary"
    )
