"""What a finished stage took: arithmetic, time, memory, energy, cost. A later plan is corrected by it.

What a run would take before it starts belongs in `forecast.py`.
"""

import resource
import sys
from collections.abc import Sequence

from finetune_platform.manifests_training import Usage
from finetune_platform.task import Cost
from finetune_platform.task_training import Stage
from finetune_platform.training.devices import device_name, matrix_rate
from finetune_platform.training.energy import EnergyMeter
from finetune_platform.training.loop import StepLog
from finetune_platform.training.prepare import Prepared
from finetune_platform.training.processes import Processes
from finetune_platform.training.work import network_of, work_of


def usage_of(
    prepared: Prepared,
    log: Sequence[StepLog],
    stage: Stage,
    cost: Cost,
    energy: EnergyMeter,
    *,
    resumed: bool,
    processes: Processes,
) -> Usage:
    """The figures of a run.

    Args:
        prepared: What ran.
        log: Every step.
        stage: Its options.
        cost: The task's prices.
        energy: That counted from the first step of this process.
        resumed: Whether other processes did the steps before; the energy is then known in part only, and not told.
        processes: That shared the work.
    """
    data = prepared.data
    work = work_of(
        network_of(prepared.model), data.plan, data.objective, data.engine.packs, data.held_out, stage.eval_steps
    )
    seconds = max(sum(entry.seconds for entry in log), 1e-3)
    device = device_name(prepared.device, prepared.precision.dtype)
    rate = matrix_rate(device) if prepared.device == "cuda" and prepared.precision.dtype == "bfloat16" else None
    return Usage(
        device=device,
        processes=processes.size,
        fsdp=processes.sharded,
        flops=work.flops,
        seconds=round(seconds, 3),
        tokens_per_second=round(sum(entry.tokens for entry in log) / seconds, 1),
        peak_memory_bytes=peak_memory(prepared.device),
        utilisation=None if rate is None else round(work.flops / seconds / processes.size / rate, 4),
        energy_wh=None if resumed else energy.watt_hours,
        energy_from="the run was resumed" if resumed else energy.reason,
        cost=seconds / 3600 * cost.training_hour if cost.training_hour else None,
        currency=cost.currency,
    )


def peak_memory(device: str) -> int:
    """The most bytes so far: of the GPU's memory, or on a CPU of this process."""
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_reserved())
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
