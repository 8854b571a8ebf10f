"""The training process: `python -m finetune_platform.training --task-file tasks/x.yaml --dataset ds-…`.

It runs alone or under Dagster Pipes, and ends with 0 (done), 75 (stopped at a checkpoint: the same command goes on),
or an error's own code. What it runs stands in `chain.py`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

from finetune_platform.errors import BadInput, FinetuneError, TransientError
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest
from finetune_platform.progress import Report
from finetune_platform.settings import Launched, settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task
from finetune_platform.training.chain import run_training
from finetune_platform.training.lake_pipes import lake_pipes
from finetune_platform.training.lifeline import StopRequest, end_by_signal, exit_with_parent
from finetune_platform.training.loop import Stopped
from finetune_platform.training.processes import Processes, joined
from finetune_platform.training.start_processes import processes_here, start_processes
from finetune_platform.training.surroundings import Surroundings

STOPPED_EXIT_CODE = 75
"""EX_TEMPFAIL: try the same again."""

Tell = Callable[[dict[str, Any]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, trains, and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, launched = _options(arguments), Launched()
    stop = StopRequest().listen()
    if options.exit_with_parent:
        exit_with_parent()
    here = _processes(options) if launched.world_size == 1 else 1
    if isinstance(here, int) and here > 1:
        return start_processes(here, arguments, stop)
    with joined(launched) as processes:
        if not processes.leads:
            return _train(options, stop, _silent, _silent, {}, processes, here)
        if not PipesEnvVarParamsLoader().is_dagster_pipes_process():
            return _train(options, stop, _print, lambda message: _print(json.dumps(message)), {}, processes, here)
        with open_dagster_pipes(**lake_pipes()) as pipes:
            tags = {"dagster_run_id": pipes.run_id}
            return _train(options, stop, pipes.log.info, pipes.report_custom_message, tags, processes, here)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m finetune_platform.training", description="Trains one adapter.")
    parser.add_argument("--task-file", required=True, metavar="FILE", help="a path, or lake:PATH inside LAKE_URL")
    parser.add_argument("--dataset", required=True, metavar="ID", help="a curated dataset in the lake: ds-…")
    parser.add_argument("--warm-start", metavar="ID", help="begin at the weights of a registered adapter: ad-…")
    parser.add_argument("--progress-every", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end, with the whole process group, when standard input closes"
    )
    return parser.parse_args(arguments)


def _processes(options: argparse.Namespace) -> int | FinetuneError:
    """How many the task asks for, or why that cannot be said: `_train` raises it, where Dagster hears of it."""
    try:
        return processes_here(_task(options.task_file, Lake(settings().lake_url)).training.processes)
    except FinetuneError as error:
        return error


def _train(
    options: argparse.Namespace,
    stop: StopRequest,
    report: Report,
    tell: Tell,
    tags: dict[str, str],
    processes: Processes,
    here: int | FinetuneError,
) -> int:
    try:
        if isinstance(here, FinetuneError):
            raise here
        place = settings()
        lake = Lake(place.lake_url)
        task = _task(options.task_file, lake)
        manifest = run_training(
            task,
            _dataset(lake, task.name, options.dataset),
            lake,
            place.cache_dir,
            Surroundings(
                place.finetune_home / "work",
                place.mlflow_tracking_uri,
                report,
                stop=stop,
                progress_every_s=options.progress_every,
                tags=tags,
            ),
            warm_start=_adapter(lake, task.name, options.warm_start),
            processes=processes,
        )
    except Stopped:
        return STOPPED_EXIT_CODE
    except FinetuneError as error:
        tell({"error": _described(error)})
        sys.stderr.write(f"{error}\n" if processes.leads else f"process {processes.rank}: {error}\n")
        return error.exit_code
    tell({"training_run_id": manifest.artifact_id})
    return 0


def _task(file: str, lake: Lake) -> Task:
    if not file.startswith("lake:"):
        return load_task(Path(file))
    path = file.removeprefix("lake:")
    try:
        content = lake.get(path)
    except FileNotFoundError as error:
        raise BadInput(f"--task-file {file}: nothing is at {lake.url_of(path)}", "name a task file") from error
    with TemporaryDirectory() as folder:
        (copy := Path(folder) / "task.yaml").write_bytes(content)
        return load_task(copy)


def _dataset(lake: Lake, task: str, dataset_id: str) -> DatasetManifest:
    path = f"{task}/datasets/{dataset_id}"
    try:
        return lake.manifest(DatasetManifest, path)
    except FileNotFoundError as error:
        raise BadInput(
            f"--dataset {dataset_id}: nothing is published at {lake.url_of(path)}",
            f"materialize {task}/curated_dataset, or name one of the datasets there",
        ) from error


def _adapter(lake: Lake, task: str, adapter_id: str | None) -> AdapterManifest | None:
    if adapter_id is None:
        return None
    path = AdapterManifest.path_of(task, adapter_id)
    try:
        return lake.manifest(AdapterManifest, path)
    except FileNotFoundError as error:
        raise BadInput(
            f"--warm-start {adapter_id}: nothing is published at {lake.url_of(path)}", "name a registered adapter"
        ) from error


def _described(error: FinetuneError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "problem": error.problem,
        "mend": error.mend,
        "transient": isinstance(error, TransientError),
    }


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _silent(message: object) -> None:
    """The first process speaks for all."""


if __name__ == "__main__":
    code = main()
    if code < 0:
        end_by_signal(-code)
    sys.exit(code)
