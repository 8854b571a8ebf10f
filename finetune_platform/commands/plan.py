"""`finetune plan`: what a task's training would take, and whether it fits."""

import sys
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune_platform.commands.installation import find_task, open_database, open_lake, read_settings
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import resolve_base_model
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import duration
from finetune_platform.registry.artifacts import recorded
from finetune_platform.report_page import money
from finetune_platform.training.capacity import require_memory
from finetune_platform.training.devices import listed_gpu, this_machine
from finetune_platform.training.forecast import ASSUMED_SHARE, Forecast, SearchForecast, forecast

TRAINED = "trained_adapter"


def plan(name: str, gpu: str | None, as_json: bool) -> None:
    """Prints the forecast.

    Raises:
        BadInput: No such task or GPU, or the task has no dataset yet.
        PermanentError: It does not fit; raised after the forecast is printed.
    """
    task, lake, database, place = find_task(name), open_lake(), open_database(), read_settings()
    made = database.latest_artifact(task.name, "curated_dataset")
    if made is None:
        raise BadInput(f"{task.name}: there is no dataset to count", f"`finetune run {task.name} --to curated_dataset`")
    dataset = lake.manifest(DatasetManifest, DatasetManifest.path_of(task.name, made.artifact_id))
    device = listed_gpu(gpu) if gpu else this_machine(task.training.stages[0].dtype)
    base = resolve_base_model(task.base_model, task.folder, lake, place.cache_dir, _tell)
    found = forecast(task, dataset, base, device, _measured(database, lake), lake, _tell)
    if as_json:
        print_json(_document(found, dataset.artifact_id))
    else:
        _print(found, f"{task.name}: {base.name} on {dataset.artifact_id}")
    worst = max(found.stages, key=lambda stage: stage.model + stage.memory)
    free, whole = device.memory - worst.model, task.training.is_whole
    require_memory(worst.memory, free, f"{base.name} on {device.name}", whole=whole)


def _measured(database: Database, lake: Lake) -> list[TrainingManifest]:
    runs = [artifact for artifact in recorded(database) if artifact.asset == TRAINED]
    paths = [TrainingManifest.path_of(run.task, run.artifact_id) for run in runs]
    return [lake.manifest(TrainingManifest, path) for path in paths if lake.is_published(path)]


def _document(found: Forecast, dataset_id: str) -> dict[str, Any]:
    return {
        "dataset": dataset_id,
        "device": found.device._asdict(),
        "fits": found.memory <= found.device.memory,
        "memory_bytes": found.memory,
        "seconds": round(found.seconds, 1),
        "cost": None if found.cost is None else round(found.cost, 4),
        "currency": found.currency,
        "search": None if found.search is None else found.search._asdict(),
        "rate": found.rate._asdict(),
        "stages": [{**stage._asdict(), "work": stage.work._asdict()} for stage in found.stages],
    }


def _print(found: Forecast, title: str) -> None:
    out, device = console(), found.device
    out.print(Text(title, "bold"), soft_wrap=True)
    table = Table("stage", "rows", "steps", "tokens", "operations", "memory", "time", box=None, header_style="dim")
    for stage in found.stages:
        work, memory = stage.work, (stage.model + stage.memory) / 1e9
        table.add_row(
            stage.method, f"{stage.rows:,}", f"{work.steps:,}", f"{work.tokens:,}", f"{work.flops:.2e}",
            f"{memory:.1f} GB", duration(stage.seconds + stage.validation_seconds),
        )  # fmt: skip
    out.print(table)
    fits = found.memory <= device.memory
    verdict = Text("fits" if fits else "does not fit", "green" if fits else "red")
    out.print(
        Text.assemble("memory  ", verdict, f": {found.memory / 1e9:.1f} GB of {device.memory / 1e9:.1f} GB"),
        soft_wrap=True,
    )
    if found.shards > 1:
        out.print(f"        of each of {found.shards} processes: the base model is divided among them (training.fsdp)")
    out.print(f"time    {duration(found.seconds)} for steps and validation; start-up comes on top", soft_wrap=True)
    told = "unknown: cost.training_hour is not set" if found.cost is None else money(found.cost, found.currency)
    out.print(f"cost    {told}")
    if found.search is not None:
        out.print(_searching(found, found.search), soft_wrap=True)
    out.print(
        Text(f"device  {device.name}: {device.flops / 1e12:.2f} TFLOP/s ({device.source})", "dim"), soft_wrap=True
    )
    out.print(Text(f"rate    {_rests_on(found)}", "dim"), soft_wrap=True)


def _searching(found: Forecast, search: SearchForecast) -> str:
    stage = found.stages[search.stage]
    whole = stage.seconds + stage.validation_seconds
    cost = "" if search.cost is None else f" and {money(search.cost, found.currency)}"
    told = f"search  at most {duration(search.seconds)}{cost} more, before stage {search.stage}: {search.trials} trials"
    if whole > search.seconds:
        return f"{told}; the stage alone takes longer, and no trial would be trained to its end: raise the minutes"
    return f"{told}, time for {search.seconds / whole:.1f} whole ones; those that are behind end early"


def _rests_on(found: Forecast) -> str:
    rate, device = found.rate, found.device
    told = f"{rate.flops / 1e12:.3f} TFLOP/s"
    if not rate.runs:
        return (
            f"{told}: {ASSUMED_SHARE[device.kind]:.0%} of that, assumed; not measured, no finished run on this device"
        )
    of = "" if rate.same_model else " of other models"
    return f"{told}, {rate.flops / device.flops:.0%} of that, measured in {', '.join(rate.runs)}{of}"


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
