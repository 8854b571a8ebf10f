"""One training on workers of several machines of a Ray cluster, by Ray Train; runs as the entry point of a Ray job.

Ray Train starts the workers, joins them, and starts all of them again when one is lost; what they then go on from is
our newest checkpoint in the lake. What each worker does stands in `command.py`, how the job is submitted in
`resources/ray_launcher.py`.
"""

import threading
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

from finetune_platform.errors import BadInput, TransientError
from finetune_platform.task import Task
from finetune_platform.training.command import STOPPED_EXIT_CODE, read_options, take_part
from finetune_platform.training.lifeline import StopRequest
from finetune_platform.training.processes import Processes

POLL_S = 0.5


class _Word:
    """What job and workers must know of each other: an actor, which outlives the workers."""

    def __init__(self) -> None:
        self._stop, self._failed = False, 0

    def ask_to_stop(self) -> None:
        self._stop = True

    def is_asked_to_stop(self) -> bool:
        return self._stop

    def fail(self, code: int) -> None:
        self._failed = code

    def failed(self) -> int:
        return self._failed


class _Told(TypedDict):
    arguments: list[str]
    word: Any


def train_on_workers(task: Task, arguments: Sequence[str], stop: StopRequest) -> int:
    """Trains on the task's `launcher.ray.workers`, to the end.

    Args:
        task: Whose `launcher.ray` says how many workers there are, what each takes, and how often all are started.
        arguments: The command line of each.
        stop: Passed on to the workers, who then save a checkpoint.

    Returns:
        The exit code that the first worker would have had as a process.

    Raises:
        BadInput: The task does not describe a Ray cluster.
        TransientError: Workers were lost more often than that.
    """
    place = task.launcher.ray
    if place is None:
        raise BadInput(f"{task.name}: launcher.ray is missing, and --on-ray needs it", "describe the cluster there")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init("auto")
    stop.listen()  # Ray has put its own handler there, which ends the job at once.
    beside_us = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    word = ray.remote(num_cpus=0, scheduling_strategy=beside_us)(_Word).remote()
    threading.Thread(target=_pass_on, args=(stop, word), name="stop", daemon=True).start()
    resources = {"CPU": place.num_cpus, "GPU": place.num_gpus}
    told: _Told = {"arguments": list(arguments), "word": word}
    with TemporaryDirectory() as folder:  # Of Ray's own notes; nothing of ours is in them.
        trainer = TorchTrainer(
            _work,
            train_loop_config=told,
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if place.num_gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=place.workers,
                use_gpu=place.num_gpus > 0,
                resources_per_worker={name: amount for name, amount in resources.items() if amount},
            ),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=place.attempts - 1)),
        )
        try:
            return int(trainer.fit().return_value)
        except WorkerGroupError as error:
            if code := ray.get(word.failed.remote()):
                return int(code)
            raise TransientError(
                f"{place.workers} workers were started {place.attempts} times, and one failed each time: "
                f"{str(error).strip().splitlines()[-1]}",
                "the job's log at the cluster tells why; materialize again to go on from the last checkpoint",
            ) from error


def _pass_on(stop: StopRequest, word: Any) -> None:
    import ray

    while not stop():
        time.sleep(POLL_S)
    ray.get(word.ask_to_stop.remote())


def _work(told: _Told) -> int:
    """A worker, in a thread of its process; the process group of all stands already."""
    import ray
    from ray.train import get_context

    word = told["word"]
    if code := ray.get(word.failed.remote()):
        return int(code)  # An error that Ray takes for a lost worker: it was told, and comes again.
    stop = StopRequest()
    threading.Thread(target=_hear, args=(stop, word), name="stop", daemon=True).start()
    context = get_context()
    processes = Processes(context.get_world_rank(), context.get_world_size())
    code = take_part(read_options(told["arguments"]), stop, processes)
    if code not in (0, STOPPED_EXIT_CODE):
        # The others may be waiting for this one's sums: only a failure ends them.
        ray.get(word.fail.remote(code))
        raise RuntimeError(f"worker {processes.rank} ended with code {code}; what it met is told above")
    return code


def _hear(stop: StopRequest, word: Any) -> None:
    import ray

    while not ray.get(word.is_asked_to_stop.remote()):
        time.sleep(POLL_S)
    stop.ask()
