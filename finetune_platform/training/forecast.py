"""What a task's training would take, before anything starts: memory, time and cost, with what the figures rest on.

Memory is the estimate by which a run refuses to start (`capacity.py`); time is counted arithmetic (`work.py`) over a
rate that was measured in runs on the same device, or, where none was, over an assumed share of what the device can do.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from finetune_platform.inference.base_models import ResolvedModel, load_tokenizer
from finetune_platform.inference.precision import choose_precision
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import Report
from finetune_platform.task import Task
from finetune_platform.task_training import Stage
from finetune_platform.training import TRAINING_VERSION
from finetune_platform.training.capacity import plan_memory
from finetune_platform.training.devices import GPUS, Device
from finetune_platform.training.model import skeleton
from finetune_platform.training.prepare import read_data
from finetune_platform.training.search.options import most_demanding
from finetune_platform.training.work import Network, Work, network_of, work_of

ASSUMED_SHARE = {"cuda": 0.35, "cpu": 0.3}
"""Of what a device can do, where no run on it was measured."""

RUNS = 5
"""Newest measured runs that a rate is the median of."""


class StageForecast(NamedTuple):
    """One stage. `memory` is that of the largest pass beyond the loaded model, `model` the model's, in bytes.

    Of a base model that is divided among processes both are those of one of them.
    """

    method: str
    rows: int
    work: Work
    model: int
    memory: int
    seconds: float
    validation_seconds: float


class Rate(NamedTuple):
    """Operations a second, and the runs in which they were measured; none: assumed. `same_model`: all of this one."""

    flops: float
    runs: list[str]
    same_model: bool


class SearchForecast(NamedTuple):
    """What a search for the options of a stage adds at most; `cost` as the whole training's."""

    stage: int
    trials: int
    seconds: float
    cost: float | None


class Forecast(NamedTuple):
    """The whole training of a task on one device; `cost` is None where the task names no price.

    Of a searched stage the options count that take most. Its `search` comes on top. The base model is divided among
    `shards` processes.
    """

    device: Device
    rate: Rate
    stages: list[StageForecast]
    cost: float | None
    currency: str
    search: SearchForecast | None = None
    shards: int = 1

    @property
    def seconds(self) -> float:
        """Of all steps and validations; imports, tokenisation and preflight come on top."""
        return sum(stage.seconds + stage.validation_seconds for stage in self.stages)

    @property
    def memory(self) -> int:
        """The most that any stage takes, the model included."""
        return max(stage.model + stage.memory for stage in self.stages)


def forecast(
    task: Task,
    dataset: DatasetManifest,
    base: ResolvedModel,
    device: Device,
    measured: Sequence[TrainingManifest],
    lake: Lake,
    report: Report,
) -> Forecast:
    """Counts every stage on the dataset's own rows, without loading a weight.

    Args:
        task: Whose stages are planned.
        dataset: Whose rows they train on.
        base: Only its configuration and tokenizer are read.
        device: To train on.
        measured: Finished runs, oldest first.
        lake: Holds the dataset.
        report: Told what reading the rows says.

    Raises:
        BadInput: As the run itself would.
    """
    first, shards = task.training.stages[0], shards_of(task)
    rate = rate_of(
        device,
        measured,
        base.name,
        whole=first.is_whole,
        quantised=first.quantization is not None,
        sharded=shards > 1,
    )
    planned, search = list(task.training.stages), task.training.search
    if search is not None:
        planned[search.stage] = most_demanding(search, planned[search.stage])
        planned = [stage.model_copy(update={"peft": planned[search.stage].peft}) for stage in planned]
    stages = [_stage(stage, task, dataset, base, device, rate, shards, lake, report) for stage in planned]
    price = task.cost.training_hour or None
    found = Forecast(device, rate, stages, None, task.cost.currency, shards=shards)
    if search is not None:
        budget = search.minutes * 60
        found = found._replace(
            search=SearchForecast(search.stage, search.trials, budget, price and budget / 3600 * price)
        )
    return found._replace(cost=price and found.seconds / 3600 * price)


def shards_of(task: Task) -> int:
    """Among how many processes the base model is divided; `auto` is as many as this machine has GPUs."""
    import torch

    ray = task.launcher.ray if task.launcher.place == "ray" else None
    if not task.training.fsdp:
        return 1
    if ray is not None and ray.workers > 1:
        return ray.workers
    return max(1, torch.cuda.device_count()) if task.training.processes == "auto" else task.training.processes


def rate_of(
    device: Device,
    measured: Sequence[TrainingManifest],
    base_model: str,
    *,
    whole: bool = False,
    quantised: bool = False,
    sharded: bool = False,
) -> Rate:
    """The rate of the newest runs on the device, those of the same base model where there are some.

    Args:
        device: To train on.
        measured: Finished runs, oldest first.
        base_model: To be trained.
        whole: Whether all of its weights are; adapters go another way through a CPU.
        quantised: Whether its weights are held in 4 bits, which takes longer.
        sharded: Whether they are divided among processes, likewise.
    """
    # Another version of the training code may be several times as fast.
    ours = [run for run in measured if run.code_version == TRAINING_VERSION]
    ours = [run for run in ours if run.is_whole == whole and _in_4_bits(run) == quantised]
    here = [run for run in ours if run.usage is not None and _ran_on(device, run.usage.device)]
    here = [run for run in here if run.usage is not None and run.usage.fsdp == sharded]
    same = [run for run in here if run.base_model == base_model]
    chosen = (same or here)[-RUNS:]
    took = [run.usage for run in chosen if run.usage is not None]
    rates = [usage.flops / usage.seconds / usage.processes for usage in took]
    if not rates:
        return Rate(device.flops * ASSUMED_SHARE[device.kind], [], False)
    return Rate(statistics.median(rates), [run.artifact_id for run in chosen], bool(same))


def _in_4_bits(run: TrainingManifest) -> bool:
    return any(stage.get("quantization") for stage in run.stages)


def _ran_on(device: Device, name: str) -> bool:
    """A GPU of the table has the short name, a run's device the driver's long one."""
    return name == device.name or (device.name in GPUS and all(word in name for word in device.name.split()))


def _stage(
    stage: Stage,
    task: Task,
    dataset: DatasetManifest,
    base: ResolvedModel,
    device: Device,
    rate: Rate,
    shards: int,
    lake: Lake,
    report: Report,
) -> StageForecast:
    tokenizer = load_tokenizer(base.path)
    data = read_data(lake, dataset, base, tokenizer, stage, task.system_prompt, device.kind, report)
    model = skeleton(base.path, base.name, stage.peft, choose_precision(stage.dtype, device.kind).dtype)
    network = network_of(model, stage.quantization)
    part = network.bytes // shards
    work = work_of(network, data.plan, data.objective, data.engine.packs, data.held_out, stage.eval_steps)
    return StageForecast(
        stage.method,
        len(data.objective.shapes),
        work,
        part,
        plan_memory(
            model,
            data.objective,
            data.plan,
            data.engine,
            device.memory - part,
            by_row=stage.privacy is not None,
            shards=shards,
        ).needed,
        max(work.flops / rate.flops, _reading(network, work, device)),
        work.validation_flops / rate.flops,
    )


def _reading(network: Network, work: Work, device: Device) -> float:
    """Seconds that only reading the weights takes, once forward and once backward a pass."""
    return 0.0 if device.bandwidth is None else 2 * work.passes * network.read / device.bandwidth
