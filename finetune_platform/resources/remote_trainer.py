"""Our trainer on somebody else's machines: what its command and variables are there, and how it is heard.

The job around it is followed in `remote_job.py`; each place's calls are in its launcher.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import yaml
from dagster import AssetExecutionContext, Failure, open_pipes_session

from finetune_platform.errors import BadInput
from finetune_platform.manifests import expect_same
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.job_attempts import ENDED, RESULT_KEY, Attempt, finished_run, launch_folder, take_up
from finetune_platform.resources.lake_pipes import LakeContextInjector, LakeMessageReader
from finetune_platform.resources.remote_job import Jobs, follow, settle
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.training import TRAINING_VERSION

COMMAND = ("python", "-m", "finetune_platform.training")
REMOTE_HOME = "/tmp/finetune"
"""Where the trainer keeps its copies and unfinished work there; a task's `environment` may name another folder."""


def train_there(
    context: AssetExecutionContext,
    job: TrainingJob,
    jobs_for: Callable[[Sequence[str]], Jobs],
    place: str,
    environment: Mapping[str, str],
    *,
    attempts: int,
    poll_s: float,
    stop_grace_s: float,
) -> str:
    """Trains at a place that runs our trainer; a lost machine's job is submitted again from its last checkpoint.

    Args:
        context: Of the asset's step.
        job: What is trained.
        jobs_for: The place's jobs that run a command.
        place: What it is called.
        environment: The task's own variables for the trainer there.
        attempts: Most jobs that this step submits.
        poll_s: Seconds between two looks at the job.
        stop_grace_s: Seconds for a checkpoint when the run is cancelled.

    Returns:
        The id of the training run, published in the lake.

    Raises:
        BadInput: The job names something that only this machine has.
        Failure: It ended without a result.
    """
    told = {**_environment(job, place), **environment}
    folder = launch_folder(job, place)
    if (run := finished_run(job, folder)) is not None:
        context.log.info(f"{place}: {run} is finished already")
        return run
    for left in reversed(range(attempts)):
        attempt = take_up(job.lake, folder)
        attempt.put("task.yaml", _task_file(job))
        jobs = jobs_for([*COMMAND, *job.arguments(f"lake:{attempt.path('task.yaml')}")])
        try:
            run = _one_attempt(context, job, jobs, attempt, told, poll_s, stop_grace_s)
        except Failure as lost:
            attempt.note(ENDED, {"reason": lost.description})
            if not lost.allow_retries or not left:
                raise
            context.log.warning(f"{lost.description}; it goes on from its last checkpoint")
            continue
        attempt.note(ENDED, {RESULT_KEY: run})
        _expect_this_version(job, run)
        return run
    raise AssertionError("the last attempt returns or raises")


def _one_attempt(
    context: AssetExecutionContext,
    job: TrainingJob,
    jobs: Jobs,
    attempt: Attempt,
    environment: dict[str, str],
    poll_s: float,
    stop_grace_s: float,
) -> str:
    injector = LakeContextInjector(job.lake, attempt.path("context.json"))
    reader = LakeMessageReader(job.lake, attempt.path("messages"))
    with open_pipes_session(context=context, context_injector=injector, message_reader=reader) as session:
        told = {**environment, **session.get_bootstrap_env_vars()}
        ended = follow(context, jobs, attempt, told, reader.read, poll_s=poll_s, stop_grace_s=stop_grace_s)
        reader.read()
    messages: list[dict[str, Any]] = [m for m in session.get_custom_messages() if isinstance(m, dict)]
    return settle(ended, messages, jobs.place)


def _environment(job: TrainingJob, place: str) -> dict[str, str]:
    """What the trainer must know there.

    Raises:
        BadInput: Another machine could not reach the lake, MLflow or the base model, or all could read a password.
    """
    if "://" not in job.lake.url:
        raise BadInput(f"LAKE_URL: {job.lake.url} is a folder, which {place} cannot reach", "set LAKE_URL to a bucket")
    if job.tracking_uri.startswith("sqlite"):
        raise BadInput(
            f"MLFLOW_TRACKING_URI: a file of this machine, which {place} cannot reach",
            "run an MLflow server, and set MLFLOW_TRACKING_URI to its address",
        )
    if urlsplit(job.tracking_uri).password:
        raise BadInput(
            f"MLFLOW_TRACKING_URI: it holds a password, and {place} shows a job's variables to all who may list jobs",
            "run an MLflow server, and set MLFLOW_TRACKING_URI to its address",
        )
    if job.task.base_model.uri.startswith(("./", "../", "~", "file:")):
        raise BadInput(
            f"base_model.uri: {job.task.base_model.uri} is a folder of this machine, which {place} cannot reach",
            "copy it into the lake and write lake:base_models/NAME, or name it on the hub",
        )
    return {"LAKE_URL": job.lake.url, "MLFLOW_TRACKING_URI": job.tracking_uri, "FINETUNE_HOME": REMOTE_HOME}


def _task_file(job: TrainingJob) -> bytes:
    """The task as this location has loaded it: its file may have changed since."""
    return yaml.safe_dump(job.task.model_dump(mode="json", exclude_unset=True), sort_keys=False).encode()


def _expect_this_version(job: TrainingJob, run: str) -> None:
    """The image's trainer and this location must mean the same by the same options."""
    path = TrainingManifest.path_of(job.task.name, run)
    trained = job.lake.manifest(TrainingManifest, path)
    expect_same("the trainer's version", TRAINING_VERSION, trained.code_version, job.lake.url_of(path))
