"""Which launcher trains a task: its own `launcher.place`, or else the setting LAUNCHER. Each place has its own file.

A place's client library is imported when something is trained there, not before.
"""

from typing import Protocol

from dagster import AssetExecutionContext, ConfigurableResource

from finetune_platform.errors import BadInput
from finetune_platform.resources.local_launcher import LocalLauncher
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.task import Task
from finetune_platform.task_launcher import Place


class Trains(Protocol):
    """What every launcher does."""

    def train(self, context: AssetExecutionContext, job: TrainingJob) -> str:
        """Trains to the end, its log lines in the step's; returns the id of the training run in the lake."""
        ...


class Launcher(ConfigurableResource["Launcher"]):
    """Trains where the task or the installation says.

    Attributes:
        place: For tasks that name none.
    """

    place: Place = "local"

    def train(self, context: AssetExecutionContext, job: TrainingJob) -> str:
        """Trains `job.task` at its place; returns the id of the training run in the lake."""
        return launcher_at(place_of(job.task, self.place)).train(context, job)


def place_of(task: Task, default: Place) -> Place:
    """Where a task is trained.

    Raises:
        BadInput: The task does not say what that place needs, or asks for a search that it cannot make.
    """
    place = task.launcher.place or default
    if missing := task.launcher.missing(place):
        raise BadInput(f"{task.path or task.name}: {missing}", "fill it in, or set LAUNCHER=local")
    search = task.training.search
    if search is not None and (reason := task.launcher.against_search(place, search.minutes)):
        raise BadInput(f"{task.path or task.name}: {reason}", "change the task file, or set LAUNCHER=local")
    return place


def launcher_at(place: Place) -> Trains:
    """The launcher of a place."""
    match place:
        case "local":
            return LocalLauncher()
        case "sagemaker":
            from finetune_platform.resources.sagemaker_launcher import SageMakerLauncher

            return SageMakerLauncher()
        case "ecs":
            from finetune_platform.resources.ecs_launcher import EcsLauncher

            return EcsLauncher()
        case "ray":
            from finetune_platform.resources.ray_launcher import RayLauncher

            return RayLauncher()
        case "openai":
            from finetune_platform.resources.openai_launcher import OpenAiLauncher

            return OpenAiLauncher()
        case "bedrock":
            from finetune_platform.resources.bedrock_launcher import BedrockLauncher

            return BedrockLauncher()
