"""What training runs on: a table of GPUs by their makers' figures, and this machine.

What a run needs of it belongs in `capacity.py` (memory) and `work.py` (arithmetic).
"""

import platform
from pathlib import Path
from typing import Literal, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.inference.precision import choose_precision, gflops
from finetune_platform.strict import nearest
from finetune_platform.training.capacity import memory_available
from finetune_platform.training.model import training_device

GIB = 2**30

USABLE = 0.92
"""Share of a GPU's memory that a process gets: the rest is the driver's context and what allocation leaves unused."""


class Device(NamedTuple):
    """Something that trains.

    Attributes:
        name: As measured runs on it are called, number format included; of the table, the GPU's name.
        kind: `cuda` or `cpu`.
        memory: Bytes that a process may use.
        flops: Operations a second of its matrix products, by its maker's figure or by a probe.
        bandwidth: Bytes a second from its memory; None: unknown.
        source: Where the figures come from, for a person.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    memory: int
    flops: float
    bandwidth: float | None
    source: str


class Gpu(NamedTuple):
    """A GPU's memory in GiB, dense bfloat16 TFLOP/s (float32 sums, no sparsity) and memory bandwidth in GB/s."""

    memory_gib: int
    bf16_tflops: float
    bandwidth_gb_s: int


GPUS = {
    "L4": Gpu(24, 121, 300),
    "A10": Gpu(24, 125, 600),
    "RTX 4090": Gpu(24, 165, 1008),
    "A100 40GB": Gpu(40, 312, 1555),
    "L40S": Gpu(48, 362, 864),
    "A100 80GB": Gpu(80, 312, 2039),
    "H100": Gpu(80, 989, 3350),
    "H200": Gpu(141, 989, 4800),
    "B200": Gpu(180, 2250, 8000),
}
"""By NVIDIA's data sheets, the SXM form where there are several. Prices are the task's: `cost.training_hour`."""


def listed_gpu(name: str) -> Device:
    """A GPU of the table, by its name in any spelling of case and spaces.

    Raises:
        BadInput: It is not there; with the nearest name.
    """
    found = next((known for known in GPUS if _plain(known) == _plain(name)), None)
    if found is None:
        raise BadInput(f'--gpu "{name}" is not known{nearest(name, list(GPUS))}', f"one of {', '.join(GPUS)}")
    memory, tflops, bandwidth = GPUS[found]
    usable = int(memory * GIB * USABLE)
    return Device(found, "cuda", usable, tflops * 1e12, bandwidth * 1e9, "the maker's data sheet, not measured")


def this_machine(dtype: Literal["auto", "bfloat16", "float32"]) -> Device:
    """Where a training process of this machine would compute, in the number format that it would take."""
    kind: Literal["cuda", "cpu"] = "cuda" if training_device() == "cuda" else "cpu"
    chosen = choose_precision(dtype, kind).dtype
    name, memory = device_name(kind, chosen), memory_available(kind)
    if kind == "cpu":
        return Device(name, kind, memory, gflops(chosen) * 1e9, None, "free memory; a small matrix product, timed")
    known = _in_table(name)
    if known is None:
        raise BadInput(
            f"{name} is not in the table of GPUs", f"name the one that is most like it: --gpu {', '.join(GPUS)}"
        )
    listed = listed_gpu(known)
    return listed._replace(name=name, memory=memory, source="free memory; rates by the maker's data sheet")


def device_name(kind: str, dtype: str) -> str:
    """What runs on this machine are called: `NVIDIA H100 80GB HBM3, bfloat16`."""
    import torch

    if kind == "cuda":
        return f"{torch.cuda.get_device_name()}, {dtype}"
    return f"{_processor()}, {torch.get_num_threads()} threads, {dtype}"


def matrix_rate(device: str) -> float | None:
    """Operations a second in bfloat16 of a GPU by the driver's name, None where the table lacks it."""
    known = _in_table(device)
    return None if known is None else GPUS[known].bf16_tflops * 1e12


def _in_table(device: str) -> str | None:
    """The longer names stand later, so that an L40S is no L4."""
    return next((gpu for gpu in reversed(GPUS) if all(word in device for word in gpu.split())), None)


def _processor() -> str:
    """Linux names it in a file; elsewhere the system may."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _plain(name: str) -> str:
    return name.replace(" ", "").replace("-", "").replace("_", "").lower()
