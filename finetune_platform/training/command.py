"""What each process of a training does: reads its arguments, trains with the others, and tells what came of it.

How many there are and who starts them is decided in `__main__.py`; what is run stands in `chain.py`.
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
from finetune_platform.settings import settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task
from finetune_platform.training.chain import run_training
from finetune_platform.training.lake_pipes import lake_pipes
from finetune_platform.training.lifeline import StopRequest
from finetune_platform.training.loop import Stopped
from finetune_platform.training.processes import Processes
from finetune_platform.training.surroundings import Surroundings

STOPPED_EXIT_CODE = 75
"""EX_TEMPFAIL: try the same again."""

Tell = Callable[[dict[str, Any]], None]


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The trainer's command line, read."""
    parser = argparse.ArgumentParser(prog="python -m finetune_platform.training", description="Trains one adapter.")
    parser.add_argument("--task-file", required=True, metavar="FILE", help="a path, or lake:PATH inside LAKE_URL")
    parser.add_argument("--dataset", required=True, metavar="ID", help="a curated dataset in the lake: ds-…")
    parser.add_argument("--warm-start", metavar="ID", help="begin at the weights of a registered adapter: ad-…")
    parser.add_argument("--progress-every", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end, with the whole process group, when standard input closes"
    )
    parser.add_argument(
        "--on-ray", action="store_true", help="train on the workers of launcher.ray, in the Ray cluster of this job"
    )
    return parser.parse_args(arguments)


def take_part(
    options: argparse.Namespace, stop: StopRequest, processes: Processes, hindrance: FinetuneError | None = None
) -> int:
    """Trains as one of `processes`; the first of them speaks for all, to Dagster where it listens.

    Args:
        options: The command line.
        stop: Whether somebody asked to stop.
        processes: That train together.
        hindrance: Why nothing can be trained, where that is known already: it is told as if training had met it.

    Returns:
        The exit code: 0 (done), 75 (stopped at a checkpoint: the same command goes on), or an error's own.
    """
    if not processes.leads:
        return _train(options, stop, _silent, _silent, {}, processes, hindrance)
    if not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        return _train(options, stop, _print, lambda message: _print(json.dumps(message)), {}, processes, hindrance)
    with open_dagster_pipes(**lake_pipes()) as pipes:
        tags = {"dagster_run_id": pipes.run_id}
        return _train(options, stop, pipes.log.info, pipes.report_custom_message, tags, processes, hindrance)


def _train(
    options: argparse.Namespace,
    stop: StopRequest,
    report: Report,
    tell: Tell,
    tags: dict[str, str],
    processes: Processes,
    hindrance: FinetuneError | None,
) -> int:
    try:
        if hindrance is not None:
            raise hindrance
        place = settings()
        lake = Lake(place.lake_url)
        task = task_at(options.task_file, lake)
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


def task_at(file: str, lake: Lake) -> Task:
    """The task in a file: a path, or `lake:PATH`.

    Raises:
        BadInput: There is none, or it cannot be read.
    """
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
