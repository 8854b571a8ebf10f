"""Training by a provider that keeps the model, as a job that is found again, followed and recorded.

The twin of `remote_trainer.py` for places that do not run our trainer. The provider's calls are in its launcher.
"""

from typing import Any, Protocol

from dagster import AssetExecutionContext, Failure

from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.job_attempts import ENDED, RESULT_KEY, SUBMITTED, launch_folder, take_up
from finetune_platform.resources.remote_job import Jobs, follow
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.training.hosted import HostedResult, expect_plain_sft, hosted_run_id, publish_hosted


class HostedJobs(Jobs, Protocol):
    """A provider's jobs, which leave a model of its own."""

    def result(self, job_id: str) -> HostedResult:
        """What a job that succeeded left."""
        ...


def train_hosted(
    context: AssetExecutionContext,
    job: TrainingJob,
    jobs: HostedJobs,
    base_model: str,
    options: dict[str, Any],
    *,
    attempts: int,
    poll_s: float,
    stop_grace_s: float,
) -> str:
    """Has a provider train, and publishes the record of it.

    Args:
        context: Of the asset's step.
        job: What is trained.
        jobs: The provider's.
        base_model: What it begins at, as the provider calls it.
        options: All that decides the outcome there.
        attempts: Most jobs that this step submits.
        poll_s: Seconds between two looks at the job.
        stop_grace_s: Seconds to wait for its end when the run is cancelled.

    Returns:
        The id of the training run, published in the lake.

    Raises:
        BadInput: The task asks for what the provider cannot do.
        Failure: The job ended without a model.
    """
    expect_plain_sft(job.task, job.warm_start, jobs.place)
    run_id = hosted_run_id(job.task, job.dataset, {"place": jobs.place, **options})
    if job.lake.is_published(TrainingManifest.path_of(job.task.name, run_id)):
        context.log.info(f"{jobs.place}: {run_id} is finished already")
        return run_id
    folder = launch_folder(job, jobs.place, options)
    for left in reversed(range(attempts)):
        attempt = take_up(job.lake, folder)
        ended = follow(context, jobs, attempt, {}, _silent, poll_s=poll_s, stop_grace_s=stop_grace_s)
        if ended.succeeded:
            known = attempt.noted(SUBMITTED)
            assert known is not None, "a job that ended was submitted"
            result = jobs.result(known["job_id"])
            publish_hosted(job.task, job.dataset, run_id, base_model, result, job.lake)
            attempt.note(ENDED, {RESULT_KEY: run_id})
            context.log.info(f"{jobs.place}: the model is {result.model.model}; {run_id} is its record")
            return run_id
        attempt.note(ENDED, {"reason": ended.reason})
        if not ended.retry or not left:
            raise Failure(f"the job at {jobs.place} ended: {ended.reason}", allow_retries=ended.retry)
        context.log.warning(f"the job at {jobs.place} ended: {ended.reason}; it is submitted again")
    raise AssertionError("the last attempt returns or raises")


def _silent() -> None:
    """These jobs report while they are asked for their end."""
