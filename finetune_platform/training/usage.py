"""What a finished stage took: arithmetic, time, memory. A later plan is corrected by it.

What a run would take before it starts belongs in `forecast.py`.
"""

import resource
import sys
from collections.abc import Sequence

from finetune_platform.manifests import Usage
from finetune_platform.training.devices import device_name
from finetune_platform.training.loop import StepLog
from finetune_platform.training.prepare import Prepared
from finetune_platform.training.work import network_of, work_of


def usage_of(prepared: Prepared, log: Sequence[StepLog], eval_steps: int) -> Usage:
    """The figures of a run whose every step is in `log`."""
    data = prepared.data
    work = work_of(network_of(prepared.model), data.plan, data.objective, data.engine.packs, data.held_out, eval_steps)
    seconds = sum(entry.seconds for entry in log)
    return Usage(
        device=device_name(prepared.device, prepared.precision.dtype),
        flops=work.flops,
        seconds=round(seconds, 2),
        tokens_per_second=round(sum(entry.tokens for entry in log) / seconds, 1),
        peak_memory_bytes=peak_memory(prepared.device),
    )


def peak_memory(device: str) -> int:
    """The most bytes so far: of the GPU's memory, or on a CPU of this process."""
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_reserved())
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
