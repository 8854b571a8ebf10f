"""`finetune run`: the chain, or a part of it, with live progress, and what came of it."""

import json
import sys

from finetune_platform.commands.dagster_home import prepare
from finetune_platform.commands.installation import find_task, no_such, open_database, open_lake, read_settings
from finetune_platform.commands.live import stage_view
from finetune_platform.commands.summary import render_result
from finetune_platform.commands.terminal import console, plain
from finetune_platform.database import Database
from finetune_platform.errors import BadInput, GatesFailed
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, EvaluationManifest, Manifest
from finetune_platform.registry.artifacts import CHAIN, read_manifest
from finetune_platform.task import Task

STAGES = tuple(CHAIN)


def run_task(name: str, start: str | None, end: str | None, force: bool, as_json: bool) -> None:
    """Runs the stages from `start` to `end` of a task's chain and shows the result.

    Raises:
        BadInput: No such task or stage, or stages in the wrong order.
        FinetuneError: Whatever ended a stage.
    """
    task = find_task(name)
    stages = stages_between(start, end)
    prepare(read_settings())
    from finetune_platform.commands.execution import run_chain

    try:
        with stage_view(stages, as_json) as send:
            run_chain(task.name, stages[0], stages[-1], force, send)
    except GatesFailed:
        if not as_json:
            _show(task, "evaluation_report", latest_manifest(open_lake(), open_database(), task, "evaluation_report"))
        raise
    made = latest_manifest(open_lake(), open_database(), task, stages[-1])
    if as_json:
        sys.stdout.write(json.dumps({"kind": "result", "asset": stages[-1], "manifest": plain(made)}) + "\n")
    else:
        _show(task, stages[-1], made)


def stages_between(start: str | None, end: str | None) -> tuple[str, ...]:
    """The stages of the chain from `start` (default: the first) to `end` (default: the last), both included."""
    for stage in (start, end):
        if stage is not None and stage not in STAGES:
            raise no_such("stage", stage, STAGES, "in the order of the chain")
    first, last = STAGES.index(start or STAGES[0]), STAGES.index(end or STAGES[-1])
    if first > last:
        raise BadInput(f"--from {start} comes after --to {end}", f"the order is {', '.join(STAGES)}")
    return STAGES[first : last + 1]


def latest_manifest(lake: Lake, database: Database, task: Task, asset: str) -> Manifest | None:
    """What an asset of the task is now, None where it never was."""
    artifact = database.latest_artifact(task.name, asset)
    return read_manifest(lake, asset, task.name, artifact.artifact_id) if artifact else None


def _show(task: Task, asset: str, made: Manifest | None) -> None:
    lake, database = open_lake(), open_database()
    adapter = made if isinstance(made, AdapterManifest) else None
    evaluation = latest_manifest(lake, database, task, "evaluation_report") if adapter else made
    if isinstance(evaluation, EvaluationManifest):
        console().print(render_result(task, evaluation, adapter))
    elif made is not None:
        out = console()
        out.print(f"{asset} is {made.artifact_id}: {lake.url_of(made.path)}", soft_wrap=True)
        out.print(f"next: finetune run {task.name} --from {STAGES[STAGES.index(asset) + 1]}", style="dim")
