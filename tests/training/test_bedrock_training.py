"""Training at Bedrock, against moto's server: the rows it is given, the job's life, and the record of the model."""

import json
import os
import signal
import time

import boto3
import pytest
from dagster import DagsterExecutionInterruptedError
from hosted_steps import train_in_a_step
from ticket_rows import TASK, example

from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.bedrock_launcher import BedrockLauncher
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.task_file import load_task
from finetune_platform.training.hosted_rows import bedrock_lines

LAUNCHER = BedrockLauncher(poll_s=0.05, stop_grace_s=2)
ROLE = "arn:aws:iam::123456789012:role/bedrock"


@pytest.fixture
def job(aws, s3_url, task_file, publish_dataset):
    """Makes a job; keywords are the model's hyperparameters."""

    def make(**hyperparameters):
        place = {"model": "amazon.nova-micro-v1:0:128k", "role": ROLE, "hyperparameters": hyperparameters}
        task = load_task(task_file(launcher={"place": "bedrock", "bedrock": place}))
        lake = Lake(s3_url)
        return TrainingJob(task, publish_dataset(lake), None, lake, "", "")

    return make


def jobs_of(job):
    """The jobs that the account has for the lake of `job`."""
    client = boto3.client("bedrock")
    summaries = client.list_model_customization_jobs()["modelCustomizationJobSummaries"]
    found = [client.get_model_customization_job(jobIdentifier=summary["jobName"]) for summary in summaries]
    return [one for one in found if one["trainingDataConfig"]["s3Uri"].startswith(job.lake.url)]


def test_a_job_leaves_a_custom_model_in_the_manifest(job):
    asked = job(epochCount="2")
    step = train_in_a_step(LAUNCHER, asked)
    assert step.failure is None
    trained = asked.lake.manifest(TrainingManifest, TrainingManifest.path_of(TASK, step.run))
    (made,) = jobs_of(asked)
    assert trained.hosted.model == made["outputModelArn"] and trained.hosted.job == made["jobArn"]
    assert made["hyperParameters"] == {"epochCount": "2"} and made["customizationType"] == "FINE_TUNING"
    assert made["jobName"] == step.tags["finetune/job"]
    assert "bedrock: job: Completed" in step.lines
    data = asked.lake.get(made["trainingDataConfig"]["s3Uri"].removeprefix(f"{asked.lake.url}/")).splitlines()
    assert json.loads(data[0])["system"] == [{"text": "Name the topic."}] and len(data) == 32
    assert train_in_a_step(LAUNCHER, asked).run == step.run and len(jobs_of(asked)) == 1


def test_a_failed_job_is_told_and_not_tried_again(job):
    asked = job(end="Failed")
    step = train_in_a_step(LAUNCHER, asked)
    assert "too few rows" in step.failure.description and not step.failure.allow_retries
    assert len(jobs_of(asked)) == 1


def test_cancel_stops_the_job_and_a_restart_does_not(job):
    asked = job(end="InProgress")

    def interrupt(instance, run_id, cancel):
        while not jobs_of(asked):
            time.sleep(0.05)
        time.sleep(1)
        if cancel:
            instance.report_run_canceling(instance.get_run_by_id(run_id))
        os.kill(os.getpid(), signal.SIGINT)

    for cancel, status in ((False, "InProgress"), (True, "Stopped")):
        step = train_in_a_step(LAUNCHER, asked, lambda *run, cancel=cancel: interrupt(*run, cancel=cancel))
        assert isinstance(step.failure, DagsterExecutionInterruptedError)
        (made,) = jobs_of(asked)
        assert made["status"] == status


def test_rows_become_prompts_and_completions():
    lines = bedrock_lines([example("My card", "card")], "Name it.", "prompt_completion")
    assert json.loads(lines) == {"prompt": "Name it.\n\nMy card", "completion": "card"}


@pytest.mark.parametrize("data_format", ["conversation", "prompt_completion"])
def test_a_row_that_a_format_cannot_tell_is_refused_with_its_place(data_format):
    with pytest.raises(BadInput, match=r"raw/tickets\.jsonl:7: it has tools or weights"):
        bedrock_lines([example("a", "b", 7, weight=0.5)], "", data_format)
