"""One training on two machines of a real Ray cluster, one of which is lost; skipped where Ray is not installed."""

import os
import signal
import threading

import pytest
from company import Company
from dagster import (
    AssetExecutionContext,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    MaterializeResult,
    asset,
    materialize,
)
from test_killed import curve
from test_processes import losses, step_reached, train
from ticket_rows import TASK

from finetune_platform.lake import Lake
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.ray_launcher import RayLauncher
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.task_file import load_task
from finetune_platform.training.checkpoints import complete_steps

pytestmark = pytest.mark.slow

STAGE = {
    "num_train_epochs": 60,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "dtype": "float32",
    "peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    "save_steps": 10,
}


class OnRay:
    """A training of two workers of a cluster, as a step of Dagster."""

    def __init__(self, cluster, lake, job):
        self.cluster, self.lake, self.job = cluster, lake, job
        self.run, self.failure, self.lines = None, None, []

    def train(self, during=lambda instance, run_id: None):
        @asset
        def trained_adapter(context: AssetExecutionContext) -> MaterializeResult:
            threading.Thread(target=during, args=(context.instance, context.run_id), daemon=True).start()
            try:
                self.run = RayLauncher(poll_s=0.5, stop_grace_s=30).train(context, self.job)
            except BaseException as error:
                self.failure = error
                raise
            return MaterializeResult()

        with DagsterInstance.ephemeral() as instance:
            result = materialize([trained_adapter], instance=instance, raise_on_error=False)
            self.lines = [entry.user_message for entry in instance.all_logs(result.run_id)]


@pytest.fixture
def on_ray(ray_cluster, s3_url, postgres_url, publish_dataset, task_file, tiny_model, monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    lake = Lake(s3_url)
    for file in tiny_model.iterdir():
        lake.put(f"base_models/tiny/{file.name}", file.read_bytes())
    place = {
        "address": ray_cluster.address,
        "workers": 2,
        "environment": {"FINETUNE_HOME": str(tmp_path / "machines"), "OMP_NUM_THREADS": "1"},
    }
    task = load_task(
        task_file(base_model={"uri": "lake:base_models/tiny"}, training={"stages": [STAGE]}, launcher={"ray": place})
    )
    return OnRay(ray_cluster, lake, TrainingJob(task, publish_dataset(lake), None, lake, postgres_url, ""))


def test_two_workers_survive_the_loss_of_a_machine(on_ray, tmp_path):
    cluster = on_ray.cluster
    cluster.add_machine()
    used = []

    def lose_a_machine(instance, run_id):
        step_reached(on_ray.lake, 40)
        used.extend(cluster.machines_of_workers())
        cluster.lose(used[0])

    on_ray.train(lose_a_machine)
    assert on_ray.run, (on_ray.failure, on_ray.lines)
    assert len(used) == 2
    trained = on_ray.lake.manifest(TrainingManifest, TrainingManifest.path_of(TASK, on_ray.run))
    assert len(trained.resumed_from_steps) == 1 and trained.resumed_from_steps[0] >= 40
    assert sum(line.startswith("training: goes on after step") for line in on_ray.lines) == 1
    assert sum(line.startswith("ray: submitted") for line in on_ray.lines) == 1
    alone = uninterrupted(on_ray, tmp_path)
    assert len(curve(on_ray.lake)) == len(alone) == trained.steps
    assert losses(curve(on_ray.lake)) == pytest.approx(losses(alone), rel=1e-5)


def test_a_cancel_is_heard_by_the_workers_who_save_a_checkpoint(on_ray):
    paths = []

    def cancel(instance, run_id):
        paths.append(step_reached(on_ray.lake, 10))
        instance.report_run_canceling(instance.get_run_by_id(run_id))
        os.kill(os.getpid(), signal.SIGINT)

    on_ray.train(cancel)
    assert isinstance(on_ray.failure, DagsterExecutionInterruptedError)
    (stopped,) = [line for line in on_ray.lines if line.startswith("training: stopped after step")]
    assert int(stopped.split()[4]) == complete_steps(on_ray.lake, paths[0])[-1]


def test_what_a_user_must_mend_is_told_once_and_not_tried_again(on_ray):
    missing = on_ray.job.dataset.model_copy(update={"artifact_id": "ds-000000000002"})
    on_ray.job = on_ray.job._replace(dataset=missing)
    on_ray.train()
    assert "--dataset ds-000000000002: nothing is published" in on_ray.failure.description
    assert not on_ray.failure.allow_retries
    told = [on_ray.lake.get(o.path) for o in on_ray.lake.list(f"{TASK}/training_jobs") if "/messages/" in o.path]
    assert b"".join(told).count(b"nothing is published") == 1


def uninterrupted(on_ray, tmp_path):
    """The curve of the same run of two processes of this machine."""
    other = Lake(str(tmp_path / "uninterrupted"))
    for found in [*on_ray.lake.list(f"{TASK}/datasets"), *on_ray.lake.list("base_models")]:
        other.put(found.path, on_ray.lake.get(found.path))
    arguments = on_ray.job.arguments(str(on_ray.job.task.path))
    environment = {
        "LAKE_URL": other.url,
        "FINETUNE_HOME": str(tmp_path / "home"),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'other.db'}",
        "MLFLOW_TRACKING_URI": "",
    }
    assert Company(2, train, arguments, environment=environment).codes() == [0, 0]
    return curve(other)
