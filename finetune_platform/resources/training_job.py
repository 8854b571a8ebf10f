"""What is to be trained, in the words in which every launcher is told, and the trainer's command line for it.

Where it runs is each launcher's own file.
"""

from typing import NamedTuple

from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.task import Task


class TrainingJob(NamedTuple):
    """One training.

    Attributes:
        task: Whose base model and options are used.
        dataset: Published in the lake.
        warm_start: The registered adapter at which training begins; None: at fresh weights.
        lake: Holds dataset, checkpoints and result.
        tracking_uri: MLflow's server or database.
        cache_dir: This machine's copies of models.
    """

    task: Task
    dataset: DatasetManifest
    warm_start: str | None
    lake: Lake
    tracking_uri: str
    cache_dir: str

    def arguments(self, task_file: str) -> list[str]:
        """The trainer's arguments, for a task file at `task_file`: a path, or `lake:PATH`."""
        begin = ["--warm-start", self.warm_start] if self.warm_start else []
        return ["--dataset", self.dataset.artifact_id, *begin, "--task-file", task_file]
