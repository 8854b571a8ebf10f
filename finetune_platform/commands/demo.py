"""`finetune demo`: a small real model becomes a registered, evaluated adapter for a real task, on this machine."""

from finetune_platform.commands.installation import find_task, open_database, open_lake, read_settings
from finetune_platform.commands.live import stage_view
from finetune_platform.commands.run import STAGES, latest_manifest
from finetune_platform.commands.status import stages_in_place
from finetune_platform.commands.summary import render_result
from finetune_platform.commands.terminal import console
from finetune_platform.errors import PermanentError
from finetune_platform.manifests import AdapterManifest, EvaluationManifest
from finetune_platform.task import Task

DEMO_TASK = "contract_entities"


def demo() -> None:
    """Makes the demo task's chain, or says that everything is in place, and shows what came of it.

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
