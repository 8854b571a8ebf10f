"""Where a training run happens and who is told of it: nothing here decides its outcome."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from finetune_platform.progress import Report
from finetune_platform.training.loop import StepLog


class Surroundings(NamedTuple):
    """What a run needs besides its data and options.

    Attributes:
        work_dir: Unfinished files; safe to delete while nothing runs.
        tracking_uri: MLflow's server or database.
        report: Told of preflight and progress.
        on_metrics: Told of every step.
        stop: Asked before every forward pass; True saves a checkpoint and ends the run.
        progress_every_s: Least seconds between two progress lines.
        tags: Further MLflow tags, such as the Dagster run.
    """

    work_dir: Path
    tracking_uri: str
    report: Report
    on_metrics: Callable[[StepLog], None] = lambda entry: None
    stop: Callable[[], bool] = lambda: False
    progress_every_s: float = 2.0
    tags: Mapping[str, str] = {}
