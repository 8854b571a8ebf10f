"""The training process: `python -m finetune_platform.training --task-file tasks/x.yaml --dataset ds-…`.

It runs alone or under Dagster Pipes, and ends with 0 (done), 75 (stopped at a checkpoint: the same command goes on),
or an error's own code. What each of its processes does stands in `command.py`.
"""

import sys
from collections.abc import Sequence

from finetune_platform.errors import FinetuneError
from finetune_platform.lake import Lake
from finetune_platform.settings import Launched, settings
from finetune_platform.training.command import read_options, take_part, task_at
from finetune_platform.training.lifeline import StopRequest, end_by_signal, exit_with_parent
from finetune_platform.training.processes import ALONE, joined
from finetune_platform.training.ray_workers import train_on_workers
from finetune_platform.training.start_processes import processes_here, start_processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, trains, and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, launched = read_options(arguments), Launched()
    stop = StopRequest().listen()
    if options.exit_with_parent:
        exit_with_parent()
    if launched.world_size > 1:
        with joined(launched) as processes:
            return take_part(options, stop, processes)
    try:
        task = task_at(options.task_file, Lake(settings().lake_url))
        if options.on_ray:
            return train_on_workers(task, arguments, stop)
        count = processes_here(task.training.processes)
    except FinetuneError as error:
        return take_part(options, stop, ALONE, error)  # Where Dagster hears of it.
    if count > 1:
        return start_processes(count, arguments, stop)
    return take_part(options, stop, ALONE)


if __name__ == "__main__":
    code = main()
    if code < 0:
        end_by_signal(-code)
    sys.exit(code)
