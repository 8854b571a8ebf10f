"""This machine's part of the work: caches, unfinished work, the tracking server, the base models."""

from pathlib import Path
from typing import TYPE_CHECKING

from dagster import ConfigurableResource

from finetune_platform.lake import Lake
from finetune_platform.progress import Report
from finetune_platform.settings import settings
from finetune_platform.task import Task

if TYPE_CHECKING:
    from finetune_platform.inference.base_models import ResolvedModel


class Workbench(ConfigurableResource["Workbench"]):
    """Local folders and the tracking address.

    Attributes:
        cache_dir: Downloads and local copies of models; safe to delete.
        work_dir: Unfinished work, so that a killed run goes on; safe to delete while nothing runs.
        tracking_uri: MLflow's server or database; without it the settings' one, which may hold a password that the
            UI would show.
    """

    cache_dir: str
    work_dir: str
    tracking_uri: str = ""

    @property
    def tracking(self) -> str:
        return self.tracking_uri or settings().mlflow_tracking_uri

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir)

    @property
    def work(self) -> Path:
        return Path(self.work_dir)

    def base_model(self, task: Task, lake: Lake, report: Report) -> "ResolvedModel":
        """The task's base model on this machine."""
        from finetune_platform.inference.base_models import resolve_base_model

        return resolve_base_model(task.base_model, task.folder, lake, self.cache, report)
