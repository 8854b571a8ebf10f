"""Amazon's API for one test session: moto's server in a process of its own, whose jobs really run, on this machine.

    python tests/aws_machines.py PORT FOLDER

moto ends every training job at once and keeps no variables, no exit codes and no tokens. Here a job is a process: the
"image" (SageMaker) or the container's image (ECS) is a Python script. FOLDER gets a job's process id as `JOB.pid`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from moto.bedrock.models import BedrockBackend, ModelCustomizationJob
from moto.bedrock.responses import BedrockResponse
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult
from moto.ecs.models import Task, ecs_backends
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.sagemaker.exceptions import AWSValidationException, ResourceInUseException
from moto.sagemaker.models import FakeTrainingJob
from moto.sagemaker.responses import SageMakerResponse
from moto.server import main

FOLDER = Path(sys.argv[2])
RUNNING: dict[str, subprocess.Popen] = {}


def start(job: str, script: str, arguments: list[str], environment: dict[str, str], at_end) -> None:
    """Runs a job's container; `at_end` is told its exit code."""
    environment = {**os.environ, **environment, "FINETUNE_HOME": str(FOLDER / "home")}
    command = arguments if script == "trainer" else [script, *arguments[2:]]
    with (FOLDER / f"{job}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
    RUNNING[job] = process
    (FOLDER / f"{job}.pid").write_text(str(process.pid))
    threading.Thread(target=lambda: at_end(process.wait()), daemon=True).start()


def container_code(code: int) -> int:
    """As a container engine tells it: 137 for SIGKILL."""
    return code if code >= 0 else 128 - code


# SageMaker: what moto leaves out.


def create_training_job(self: SageMakerResponse):
    name = self._get_param("TrainingJobName")
    if name in self.sagemaker_backend.training_jobs:
        raise ResourceInUseException(f"Training job names must be unique: {name}")
    answer = moto_create_training_job(self)
    job = self.sagemaker_backend.training_jobs[name]
    job.training_job_status, job.secondary_status = "InProgress", "Training"
    (FOLDER / f"{name}.json").write_text(json.dumps(json.loads(self.body)))
    run_training_job(job, self._get_param("Environment"))
    return answer


def run_training_job(job: FakeTrainingJob, environment: dict[str, str]) -> None:
    container = job.algorithm_specification

    def at_end(code: int) -> None:
        if code == -signal.SIGKILL and job.enable_managed_spot_training:
            run_training_job(job, environment)  # A lost spot machine: SageMaker takes the next one.
            return
        job.failure_reason = f"AlgorithmError: , exit code: {container_code(code)}" if code else None
        stopped = job.training_job_status == "Stopping"
        status = "Stopped" if stopped else "Failed" if code else "Completed"
        job.secondary_status = job.training_job_status = status

    arguments = container["ContainerEntrypoint"] + container["ContainerArguments"]
    start(job.training_job_name, container["TrainingImage"], arguments[1:], environment, at_end)


def stop_training_job(self: SageMakerResponse) -> str:
    job = self.sagemaker_backend.training_jobs[self._get_param("TrainingJobName")]
    if job.training_job_status != "InProgress":
        raise AWSValidationException("The request was rejected because the training job has ended")
    job.training_job_status = "Stopping"
    RUNNING[job.training_job_name].terminate()
    return "{}"


# ECS: what moto leaves out.


def run_task(self: EC2ContainerServiceResponse):
    token = self._get_param("clientToken")
    if token in TASKS:
        return ActionResult({"tasks": [TASKS[token]], "failures": []})
    if "full" in self._get_param("cluster"):
        return ActionResult({"tasks": [], "failures": [{"reason": "RESOURCE:GPU"}]})
    answer = moto_run_task(self)
    (task,) = answer.result["tasks"]
    TASKS[token] = task
    (override,) = self._get_param("overrides")["containerOverrides"]
    (FOLDER / f"{token}.json").write_text(json.dumps(json.loads(self.body)))

    def at_end(code: int) -> None:
        spot = code == -signal.SIGKILL and task.capacity_provider_name == "FARGATE_SPOT"
        task.stop_code = "SpotInterruption" if spot else "EssentialContainerExited"
        task.stopped_reason = "Your Spot Task was interrupted." if spot else "Essential container in task exited"
        task.containers[0].exitCode = container_code(code)
        task.last_status = task.desired_status = "STOPPED"

    environment = {variable["name"]: variable["value"] for variable in override["environment"]}
    start(token, task.containers[0].image, override["command"][1:], environment, at_end)
    return answer


def stop_task(self: EC2ContainerServiceResponse):
    task = next(t for t in TASKS.values() if t.task_arn == self._get_param("task"))
    RUNNING[task.started_by].terminate()
    return ActionResult({"task": task})


def advance(self: Task) -> None:
    """A task ends with its process, not after so many looks at it."""


TASKS: dict[str, Task] = {}
Task.advance = advance
moto_run_task = EC2ContainerServiceResponse.run_task
EC2ContainerServiceResponse.run_task = run_task
EC2ContainerServiceResponse.stop_task = stop_task
moto_create_training_job = SageMakerResponse.create_training_job
SageMakerResponse.create_training_job = create_training_job
SageMakerResponse.stop_training_job = stop_training_job

# Bedrock: what moto leaves out. No model is trained; a job ends at the second look as its hyperparameter `end` says.


def create_model_customization_job(self: BedrockResponse) -> str:
    asked = json.loads(self.body)
    if (token := asked["clientRequestToken"]) in TOKENS:
        return TOKENS[token]
    (FOLDER / f"{asked['jobName']}.json").write_text(json.dumps(asked))
    TOKENS[token] = moto_create_model_customization_job(self)
    return TOKENS[token]


def get_model_customization_job(self: BedrockBackend, job_identifier: str) -> ModelCustomizationJob:
    job = moto_get_model_customization_job(self, job_identifier)
    LOOKS[job_identifier] = LOOKS.get(job_identifier, 0) + 1
    end = job.hyper_parameters.get("end", "Completed")
    if LOOKS[job_identifier] > 2 and job.status == "InProgress" and end != "InProgress":
        job.status, job.failure_message = end, "The data has too few rows"
    return job


TOKENS: dict[str, str] = {}
LOOKS: dict[str, int] = {}
moto_create_model_customization_job = BedrockResponse.create_model_customization_job
moto_get_model_customization_job = BedrockBackend.get_model_customization_job
BedrockResponse.create_model_customization_job = create_model_customization_job
BedrockBackend.get_model_customization_job = get_model_customization_job

if __name__ == "__main__":
    for cluster in ("gpus", "full"):
        ecs_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].create_cluster(cluster)
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
