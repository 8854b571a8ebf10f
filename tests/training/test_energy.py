"""Energy is read from the machine's counters, past their turn-over, or honestly unknown."""

import os
from pathlib import Path

import pytest

from finetune_platform.training.energy import EnergyMeter


def package(rapl: Path, name: str, microjoules: int, most: int = 10**9) -> Path:
    folder = rapl / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_all_processors_count_past_the_end_of_their_counters(tmp_path):
    first, second = package(tmp_path, "intel-rapl:0", 10**9 - 1), package(tmp_path, "intel-rapl:1", 0)
    package(tmp_path, "intel-rapl:0:0", 5)  # a part of the first one
    meter = EnergyMeter("cpu", tmp_path)
    (first / "energy_uj").write_text("359999998")
    (second / "energy_uj").write_text("0")
    meter.sample()
    assert meter.watt_hours == pytest.approx(0.1)
    (second / "energy_uj").write_text("720000000")
    meter.sample()
    assert meter.watt_hours == pytest.approx(0.3) and "RAPL" in meter.reason


def test_without_a_counter_energy_is_unknown_and_says_why(tmp_path):
    meter = EnergyMeter("cpu", tmp_path)
    meter.sample()
    assert meter.watt_hours is None and "no energy counter" in meter.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_for_root_only_is_named(tmp_path):
    (package(tmp_path, "intel-rapl:0", 0) / "energy_uj").chmod(0)
    meter = EnergyMeter("cpu", tmp_path)
    assert meter.watt_hours is None and meter.reason.endswith("intel-rapl:0/energy_uj is for root only")
