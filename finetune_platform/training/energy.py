"""The energy that training draws, where the machine measures it: NVML's counter of a GPU, RAPL's of a processor.

Nothing is estimated here: where no counter can be read, the answer is None and the reason.
"""

from pathlib import Path
from typing import Protocol

RAPL = Path("/sys/class/powercap")


class Counter(Protocol):
    """Something that counts joules."""

    source: str

    def joules(self) -> float:
        """Since the counter was made."""


class RaplCounter:
    """The packages of Intel and AMD processors: the whole processor, whoever uses it, without memory and disks.

    Args:
        packages: Folders with `energy_uj`, which starts anew at `max_energy_range_uj`; read at least every few minutes.
    """

    source = "RAPL, the whole processor"

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self._last = [_number(package / "energy_uj") for package in packages]
        self._ranges = [_number(package / "max_energy_range_uj") for package in packages]
        self._sum = 0

    def joules(self) -> float:
        for number, package in enumerate(self._packages):
            now = _number(package / "energy_uj")
            self._sum += (now - self._last[number]) % (self._ranges[number] + 1)
            self._last[number] = now
        return self._sum / 1e6


class NvmlCounter:
    """This process's GPU, by the driver's own counter."""

    source = "NVML, the whole GPU"

    def __init__(self) -> None:
        import pynvml
        import torch

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties().uuid}")
        self._first = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._first) / 1e3


class EnergyMeter:
    """Counts from when it is made; `reason` says what is counted, or why nothing is.

    Args:
        device: `cuda` or `cpu`.
        rapl: Where Linux shows the processors' counters.
    """

    def __init__(self, device: str, rapl: Path = RAPL) -> None:
        self._counter, self.reason = _gpu() if device == "cuda" else _processor(rapl)
        self._joules = 0.0

    def sample(self) -> None:
        """Reads the counter, which may start anew when it is full: call it every step."""
        if self._counter is not None:
            self._joules = self._counter.joules()

    @property
    def watt_hours(self) -> float | None:
        """Up to the last sample."""
        return None if self._counter is None else self._joules / 3600


def _processor(rapl: Path) -> tuple[Counter | None, str]:
    packages = sorted(path for path in rapl.glob("intel-rapl:*") if path.name.count(":") == 1)
    if not packages:
        return None, "this machine shows no energy counter (RAPL)"
    try:
        return RaplCounter(packages), RaplCounter.source
    except PermissionError:
        return None, f"{packages[0]}/energy_uj is for root only"


def _gpu() -> tuple[Counter | None, str]:
    try:
        import pynvml
    except ModuleNotFoundError:
        return None, "nvidia-ml-py is not installed (the extra `gpu`)"
    try:
        return NvmlCounter(), NvmlCounter.source
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))
