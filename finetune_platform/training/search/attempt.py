"""One process's attempt at a trial: followed in MLflow and on the progress line, and written down at every rung.

How a trial is trained belongs in `trial.py`; which one comes next in `search.py`.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from finetune_platform.errors import PermanentError, TransientError
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.progress import duration
from finetune_platform.task import Task
from finetune_platform.task_search import Search
from finetune_platform.task_training import Stage
from finetune_platform.training.loop import StepLog, Stopped
from finetune_platform.training.processes import Processes
from finetune_platform.training.run import tracked_run
from finetune_platform.training.search.options import with_options
from finetune_platform.training.search.proposals import RUNGS, behind
from finetune_platform.training.search.record import TrialRecord, keep_trial
from finetune_platform.training.search.trial import Ground, run_trial
from finetune_platform.training.surroundings import Surroundings
from finetune_platform.training.tracking import Tracking, open_tracking

MLFLOW_PARENT = "mlflow.parentRunId"
"""MLflow's own tag: its pages show a run inside the one that this names."""

MLFLOW_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}
"""Of a trial's MLflow run by the trial's state, which is a tag; else `KILLED`."""


class Followed(NamedTuple):
    """Where a search's trials are told and written down.

    Attributes:
        task: As the search's; likewise `dataset` and `base`.
        stage: As it is written.
        name: The search's id.
        lake: Holds `path`, the search's folder.
        parent: The search's own MLflow run; None at processes that do not lead.
        surroundings: Where it runs and who is told.
        processes: That train together.
    """

    task: Task
    dataset: DatasetManifest
    base: ResolvedModel
    stage: Stage
    name: str
    lake: Lake
    path: str
    parent: Tracking | None
    surroundings: Surroundings
    processes: Processes


def attempt_trial(
    search: Search, ground: Ground, followed: Followed, ended: Sequence[TrialRecord], begun: TrialRecord, left: float
) -> TrialRecord:
    """Trains one trial as far as it goes.

    Args:
        search: Whose trial it is.
        ground: What all trials share.
        followed: Where it is told and written down.
        ended: The trials before.
        begun: The trial: a new one, or one that another process began.
        left: Seconds of the budget.

    Returns:
        The trial, ended.

    Raises:
        Stopped: Somebody asked for it; the trial begins anew next time, and its time counts.
    """
    import torch

    processes, ask = followed.processes, followed.surroundings.stop
    trial, began = begun.model_copy(update={"unended": begun.unended + 1, "measured": []}), time.monotonic()

    def spent() -> float:
        return time.monotonic() - began

    def keep(**changed: Any) -> None:
        nonlocal trial
        trial = trial.model_copy(update={"seconds": round(begun.seconds + spent(), 1), **changed})
        if processes.leads:
            keep_trial(followed.lake, followed.path, trial)

    keep()
    tracking = _track(followed, trial) if processes.leads else None
    line = _ProgressLine(search, followed.surroundings, ended, lambda: left - spent())

    def step(entry: StepLog) -> None:
        nonlocal trial
        trial = trial.model_copy(update={"steps_done": entry.step})
        if tracking:
            tracking.log_step(entry)
            line.at(trial, entry.loss)

    def is_behind(measured: Sequence[float]) -> bool:
        keep(measured=list(measured))
        return behind(search, ended, trial)

    try:
        if tracking:
            keep(mlflow_run_id=tracking.run_id)
        measured = run_trial(
            ground,
            with_options(followed.stage, begun.options),
            planned=lambda steps: keep(steps=steps),
            told=step,
            behind=is_behind,
            stop=lambda: ask() or (processes.leads and spent() > left),
            processes=processes,
        )
        keep(state="complete" if len(measured) == len(RUNGS) else "pruned", measured=measured, unended=0)
    except Stopped:
        if any(processes.gather(ask())):
            with suppress(TransientError):
                keep(unended=begun.unended)
            number, most = begun.number, search.trials
            followed.surroundings.report(
                f"search: stopped in trial {number} of {most}; the same command goes on with it"
            )
            raise
        keep(state="out_of_time", unended=0)
    except PermanentError as error:
        keep(state="failed", reason=error.problem, unended=0)
    except torch.OutOfMemoryError as error:
        if processes.size > 1:
            raise  # The others wait for this one's sums: all end, and the trial counts as killed.
        keep(state="failed", reason=f"out of memory: {str(error).partition(chr(10))[0]}", unended=0)
    except (TransientError, KeyboardInterrupt):
        with suppress(TransientError):
            keep(unended=begun.unended)
        raise
    finally:
        if tracking:
            tracking.tag({"trial_state": "stopped" if trial.state == "running" else trial.state})
            tracking.close(MLFLOW_STATUS.get(trial.state, "KILLED"))
    return trial


def _track(followed: Followed, trial: TrialRecord) -> Tracking:
    """The trial's MLflow run, inside the search's."""
    assert followed.parent is not None
    tags = {
        **followed.surroundings.tags,
        MLFLOW_PARENT: followed.parent.run_id,
        "search_id": followed.name,
        "trial": str(trial.number),
    }
    stage, name = with_options(followed.stage, trial.options), f"{followed.name}-{trial.number:02d}"
    run = tracked_run(followed.task, followed.dataset, followed.base, stage, name, tags)
    return open_tracking(followed.surroundings.tracking_uri, followed.lake, run, followed.surroundings.report)


class _ProgressLine:
    """`search 3/16 trials | 12:30 left | best 0.4512 (trial 2) | trial 4: step 12/48, loss 0.7312`, now and then."""

    def __init__(
        self, search: Search, surroundings: Surroundings, ended: Sequence[TrialRecord], left: Callable[[], float]
    ) -> None:
        whole = [trial for trial in ended if trial.state == "complete"]
        best = min(whole, key=lambda trial: trial.measured[-1], default=None)
        self._best = "" if best is None else f"best {best.measured[-1]:.4f} (trial {best.number}) | "
        self._done = f"search {len(ended)}/{search.trials} trials"
        self._surroundings, self._left, self._quiet_until = surroundings, left, float("-inf")

    def at(self, trial: TrialRecord, loss: float) -> None:
        """Tells where the trial is, unless it was told just now."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + self._surroundings.progress_every_s
            where = f"trial {trial.number}: step {trial.steps_done}/{trial.steps}, loss {loss:.4f}"
            left = duration(max(self._left(), 0))
            self._surroundings.report(f"{self._done} | {left} left | {self._best}{where}")
