"""Training on a real Ray cluster, its three nodes on this machine; skipped where Ray is not installed."""

import os
import signal
import time

import pytest
from dagster import DagsterExecutionInterruptedError
from place_trainer import RUN, PlaceTrainer, trained_manifest

from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME
from finetune_platform.task_file import load_task

pytestmark = pytest.mark.slow


@pytest.fixture
def trainer(ray_cluster, s3_url, task_file, tmp_path, monkeypatch) -> PlaceTrainer:
    """Trains at the cluster; a script stands in the trainer's place."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("finetune_platform.resources.remote_trainer.COMMAND", ("python", str(tmp_path / "script.py")))
    place = {"ray": {"address": ray_cluster.address}}
    task = load_task(task_file(base_model={"uri": "lake:base_models/tiny"}, launcher={"place": "ray", **place}))
    lake = Lake(s3_url)
    lake.put(f"{task.name}/training_runs/{RUN}/{MANIFEST_NAME}", trained_manifest(task.name).to_bytes())
    return PlaceTrainer("ray", task, lake, tmp_path)


def test_a_stopped_trainer_goes_on_and_its_words_arrive(trainer):
    trainer.script("pipes.log.info(f'process {begun}')\nif begun == 1: sys.exit(75)\ndone()")
    step = trainer.train()
    assert step.run == RUN, step.failure
    assert {"process 1", "process 2"} <= set(step.lines) and trainer.begun == 2


def test_a_killed_trainer_goes_on_and_a_failed_one_does_not(trainer):
    trainer.script("if begun == 1: os.kill(os.getpid(), 9)\nsys.exit(3)")
    step = trainer.train()
    assert "code 3" in step.failure.description and not step.failure.allow_retries
    assert trainer.begun == 2


def test_a_restart_leaves_the_job_running_and_a_cancel_ends_it(trainer):
    trainer.script("pathlib.Path(count.with_name('pid')).write_text(str(os.getpid()))\ntime.sleep(600)")
    pid = trainer.folder / "pid"

    def interrupt(instance, run_id, cancel):
        while not pid.exists():
            time.sleep(0.1)
        time.sleep(2)
        if cancel:
            instance.report_run_canceling(instance.get_run_by_id(run_id))
        os.kill(os.getpid(), signal.SIGINT)

    for cancel in (False, True):
        step = trainer.train(lambda *run, cancel=cancel: interrupt(*run, cancel))
        assert isinstance(step.failure, DagsterExecutionInterruptedError)
        if not cancel:
            os.kill(int(pid.read_text()), 0)
    assert trainer.begun == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_lost_machine_is_replaced_by_another(trainer, ray_cluster):
    trainer.script("if begun == 1: time.sleep(600)\ndone()")

    def lose(instance, run_id):
        while not trainer.begun:
            time.sleep(0.1)
        ray_cluster.lose(ray_cluster.machine_of(instance.get_run_by_id(run_id).tags["finetune/job"]))

    step = trainer.train(lose)
    assert step.run == RUN, step.failure
    assert trainer.begun == 2
    assert any("Job supervisor actor died" in line for line in step.lines)
