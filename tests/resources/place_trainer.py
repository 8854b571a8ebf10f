"""Steps that train at a place, with a script in the trainer's stead."""

import textwrap
import threading
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset, materialize

from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.ecs_launcher import EcsLauncher
from finetune_platform.resources.ray_launcher import RayLauncher
from finetune_platform.resources.sagemaker_launcher import SageMakerLauncher
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.task import Task
from finetune_platform.task_file import load_task
from finetune_platform.training import TRAINING_VERSION

RUN = "tr-000000000001"
LAUNCHERS = {
    "sagemaker": SageMakerLauncher(poll_s=0.2, stop_grace_s=10),
    "ecs": EcsLauncher(poll_s=0.2, stop_grace_s=10),
    "ray": RayLauncher(poll_s=0.5, stop_grace_s=20),
}


class Step(NamedTuple):
    """What became of a step that trained."""

    run: str | None
    failure: Any
    lines: list[str]
    tags: dict[str, str]


class PlaceTrainer:
    """Trains at a place with a script in the trainer's stead, in steps that can be interrupted."""

    def __init__(self, place: str, task: Task, lake: Lake, folder: Path) -> None:
        self.place, self.task, self.lake, self.folder = place, task, lake, folder
        self.dataset = DatasetManifest(
            artifact_id="ds-000000000001",
            task=task.name,
            code_version="1",
            splits={},
            rejected=0,
            funnel=[],
            strata={},
            tokens={},
            base_model="tiny",
        )
        self.tracking_uri = "http://mlflow.example"

    def script(self, text: str) -> None:
        """What the trainer does; `begun` counts its processes, `pipes` reports."""
        lines = [
            "import os, pathlib, signal, sys, time",
            "from dagster_pipes import open_dagster_pipes",
            "from finetune_platform.training.lake_pipes import lake_pipes",
            f"count = pathlib.Path({str(self.folder / 'begun')!r})",
            "begun = len(count.read_text()) + 1 if count.exists() else 1",
            "count.write_text('x' * begun)",
            "with open_dagster_pipes(**lake_pipes()) as pipes:",
            "    def done():",
            f"        pipes.report_custom_message({{'training_run_id': {RUN!r}}})",
            textwrap.indent(textwrap.dedent(text), "    "),
        ]
        (self.folder / "script.py").write_text("\n".join(lines))

    @property
    def begun(self) -> int:
        """How many processes the place has started."""
        count = self.folder / "begun"
        return len(count.read_text()) if count.exists() else 0

    def train(self, during=lambda instance, run_id: None) -> Step:
        """One step; `during` runs beside it."""
        trained, failed, run_ids = [], [], []
        job = TrainingJob(self.task, self.dataset, None, self.lake, self.tracking_uri, "")

        @asset
        def trained_adapter(context: AssetExecutionContext) -> MaterializeResult:
            run_ids.append(context.run_id)
            threading.Thread(target=during, args=(context.instance, context.run_id), daemon=True).start()
            try:
                trained.append(LAUNCHERS[self.place].train(context, job))
            except BaseException as error:
                failed.append(error)
                raise
            return MaterializeResult()

        with DagsterInstance.ephemeral() as instance:
            materialize([trained_adapter], instance=instance, raise_on_error=False)
            lines = [entry.user_message for entry in instance.all_logs(run_ids[0])]
            tags = dict(instance.get_run_by_id(run_ids[0]).tags)
        return Step((trained or [None])[0], (failed or [None])[0], lines, tags)


def trained_manifest(task: str) -> TrainingManifest:
    """The record of a run that somebody trained."""
    return TrainingManifest(
        artifact_id=RUN,
        task=task,
        code_version=TRAINING_VERSION,
        base_model="tiny",
        base_model_revision="1",
        system_prompt="",
        chat_template_sha256="",
        stages=[],
        steps=1,
        train_rows=1,
        supervised_tokens=1,
        trainable_parameters=1,
        first_loss=1.0,
        final_loss=1.0,
        validation_loss=None,
        train_seconds=1.0,
        rows_per_second=1.0,
        preflight={},
        golden=[],
        versions={},
        device="cpu",
    )


def make_trainer(place, s3_url, task_file, folder, **options) -> PlaceTrainer:
    """A task at a place; `options` are more of what the place needs."""
    image = str(folder / "script.py")
    if place == "ecs":
        container = {"name": "trainer", "image": image, "memory": 512}
        family = folder.name.replace(".", "-")
        boto3.client("ecs").register_task_definition(family=family, containerDefinitions=[container])
        places = {"ecs": {"cluster": "gpus", "task_definition": family, "container": "trainer",
                          "capacity_provider": "FARGATE_SPOT", **options}}  # fmt: skip
    else:
        places = {"sagemaker": {"image": image, "role": "arn:aws:iam::123456789012:role/trainer",
                                "instance_type": "ml.g5.xlarge", "spot": True, **options}}  # fmt: skip
    task = load_task(task_file(base_model={"uri": "lake:base_models/tiny"}, launcher={"place": place, **places}))
    lake = Lake(s3_url)
    lake.put(f"{task.name}/training_runs/{RUN}/{MANIFEST_NAME}", trained_manifest(task.name).to_bytes())
    return PlaceTrainer(place, task, lake, folder)
