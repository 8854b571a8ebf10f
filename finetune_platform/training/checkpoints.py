"""Checkpoints in the lake: everything that a run needs to continue as if it had not stopped.

A checkpoint exists once its `manifest.json` does, which is written last; a folder without one is what a killed
writer left, and is ignored. When to write one is decided in `run.py`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, Record
from finetune_platform.storage_errors import disk_failures
from finetune_platform.training.divergence import recent_loss
from finetune_platform.training.loop import StepLog
from finetune_platform.training.model import restore_adapter, save_adapter
from finetune_platform.training.optimizer import AdapterOptimizer
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.random_state import restore_random_state
from finetune_platform.training.sharded import weights_together
from finetune_platform.training.whole_model import base_of

STATE_FILE = "trainer_state.pt"
LOG_FILE = "log.jsonl"


class CheckpointRecord(Record):
    """A checkpoint's `manifest.json`.

    Attributes:
        training_run: Whose it is.
        step: Steps done: the position in the data.
        resumed_from_steps: Where earlier processes of this run had taken it up.
    """

    training_run: str
    step: int
    resumed_from_steps: list[int]


class Restored(NamedTuple):
    """Where a run goes on."""

    step: int
    log: list[StepLog]
    resumed_from_steps: list[int]


def save_checkpoint(
    lake: Lake,
    run_path: str,
    record: CheckpointRecord,
    model: Any,
    optimizer: AdapterOptimizer,
    log: Sequence[StepLog],
    random_states: Sequence[dict[str, Any]],
    *,
    work_dir: Path,
    keep: int,
    processes: Processes = ALONE,
) -> None:
    """Publishes the state after `record.step` steps, then deletes older checkpoints.

    The newest `keep` stay, and the one before which the loss was lowest: where a run goes astray between two
    checkpoints, the newest are the bad ones. `random_states` are those of all processes, by rank. All `processes` make
    this call; the first writes what they have together.

    Raises:
        StorageFailed: A disk is full; the older checkpoints are still there.
        Unreachable: The lake does not answer; likewise.
    """
    import torch

    weights, state = weights_together(base_of(model)), optimizer.state()
    if not processes.leads:
        return
    with disk_failures(work_dir):
        work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work_dir, prefix="checkpoint-") as temporary:
            folder = Path(temporary)
            save_adapter(model, folder, weights)
            with (folder / STATE_FILE).open("wb") as stream:
                torch.save({"optimizer": state, "random": list(random_states)}, stream)
            (folder / LOG_FILE).write_text("".join(f"{entry.line()}\n" for entry in log))
            (folder / MANIFEST_NAME).write_text(record.model_dump_json(indent=2))
            lake.publish(folder, _path(run_path, record.step))
    losses, steps = [entry.loss for entry in log], complete_steps(lake, run_path)
    best = min(steps, key=lambda step: recent_loss(losses[:step]))
    for step in steps[:-keep]:
        if step != best:
            lake.delete(_path(run_path, step))


def complete_steps(lake: Lake, run_path: str) -> list[int]:
    """The steps of which there is a whole checkpoint, in order."""
    manifests = [o.path for o in lake.list(f"{run_path}/checkpoints") if o.path.endswith(f"/{MANIFEST_NAME}")]
    return sorted(int(path.split("/")[-2].removeprefix("step-")) for path in manifests)


def restore_checkpoint(
    lake: Lake,
    run_path: str,
    step: int,
    model: Any,
    optimizer: AdapterOptimizer,
    device: str,
    *,
    work_dir: Path,
    processes: Processes = ALONE,
) -> Restored:
    """Puts the state after `step` steps into model, optimizer and the random number generators of this process.

    All `processes` make this call. Where there were fewer before, those that are new keep the generators that they
    have; of a divided model each takes its part of what was written whole, on one machine one after the other.
    """

    def restore() -> Restored:
        return _restore(lake, run_path, step, model, optimizer, device, work_dir, processes.rank)

    return processes.one_by_one(restore)


def _restore(
    lake: Lake,
    run_path: str,
    step: int,
    model: Any,
    optimizer: AdapterOptimizer,
    device: str,
    work_dir: Path,
    rank: int,
) -> Restored:
    import torch

    with disk_failures(work_dir):
        work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work_dir, prefix="resume-") as temporary:
            folder = lake.fetch(_path(run_path, step), Path(temporary) / "checkpoint")
            restore_adapter(model, folder)
            place = "cpu" if optimizer.divided else device
            state = torch.load(folder / STATE_FILE, map_location=place, weights_only=True, mmap=optimizer.divided)
            optimizer.restore(state["optimizer"])
            if rank < len(state["random"]):
                restore_random_state(state["random"][rank])
            log = [StepLog.from_line(line) for line in (folder / LOG_FILE).read_text().splitlines()]
            record = CheckpointRecord.model_validate_json((folder / MANIFEST_NAME).read_text())
    return Restored(step, log, record.resumed_from_steps)


def _path(run_path: str, step: int) -> str:
    return f"{run_path}/checkpoints/step-{step:06d}"
