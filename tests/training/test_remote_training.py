"""The real trainer as a job of SageMaker (moto's), with lake and database on servers: one spot machine is lost."""

import os
import signal
import threading
import time

import pytest
from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset, materialize
from ticket_rows import TASK

from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.launcher import Launcher
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.task_file import load_task

PLACE = {
    "image": "trainer",
    "role": "arn:aws:iam::123456789012:role/trainer",
    "instance_type": "ml.g5.xlarge",
    "spot": True,
}


@pytest.mark.slow
def test_a_training_goes_on_on_the_next_spot_machine(aws, s3_url, postgres_url, publish_dataset, task_file, tiny_model):
    lake = Lake(s3_url)
    for file in tiny_model.iterdir():
        lake.put(f"base_models/tiny/{file.name}", file.read_bytes())
    stage = {"num_train_epochs": 40, "dtype": "float32", "peft": {"r": 4, "lora_alpha": 8}, "save_steps": 5}
    task = load_task(
        task_file(
            base_model={"uri": "lake:base_models/tiny"},
            training={"stages": [{**stage, "per_device_train_batch_size": 4}]},
            launcher={"sagemaker": PLACE},
        )
    )
    job = TrainingJob(task, publish_dataset(lake), None, lake, postgres_url, "")
    runs = []

    def lose_a_machine():
        while not any(
            "/checkpoints/" in info.path and info.path.endswith(MANIFEST_NAME)
            for info in lake.list(f"{TASK}/training_runs")
        ):
            time.sleep(0.2)
        (pid,) = [int(file.read_text()) for file in aws.folder.glob("*.pid") if alive(int(file.read_text()))]
        os.kill(pid, signal.SIGKILL)

    @asset
    def trained_adapter(context: AssetExecutionContext) -> MaterializeResult:
        runs.append(Launcher(place="sagemaker").train(context, job))
        return MaterializeResult()

    threading.Thread(target=lose_a_machine, daemon=True).start()
    with DagsterInstance.ephemeral() as instance:
        result = materialize([trained_adapter], instance=instance)
        lines = [entry.user_message for entry in instance.all_logs(result.run_id)]
    trained = lake.manifest(TrainingManifest, TrainingManifest.path_of(TASK, runs[0]))
    assert trained.resumed_from_steps
    assert any("preflight: row 1 is trained to say" in line for line in lines)
    assert any(line.startswith("training: goes on after step") for line in lines)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
