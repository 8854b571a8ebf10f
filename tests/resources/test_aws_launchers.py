"""Training at SageMaker and on ECS, against moto's server: found again, followed, stopped, tried again."""

import os
import signal
import time

import boto3
import pytest
from dagster import DagsterExecutionInterruptedError, Failure
from place_trainer import RUN, make_trainer

from finetune_platform.errors import BadInput, TransientError
from finetune_platform.resources.job_attempts import launch_folder
from finetune_platform.resources.training_job import TrainingJob


def job_of(trainer, attempt=1):
    job = TrainingJob(trainer.task, trainer.dataset, None, trainer.lake, "", "")
    return f"{launch_folder(job, trainer.place).rpartition('/')[2]}-{attempt}"


def wait_until(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_the_result_the_log_lines_and_the_tags_arrive(trainer):
    trainer.script("pipes.log.info('training 1/2 steps | loss 0.7'); done()")
    step = trainer.train()
    assert step.run == RUN, step.failure
    assert "training 1/2 steps | loss 0.7" in step.lines
    assert step.tags["finetune/job"].rpartition("/")[2] and step.tags["finetune/job_place"] == trainer.place
    again = trainer.train()
    assert again.run == RUN and trainer.begun == 1
    assert f"{trainer.place}: {RUN} is finished already" in again.lines
    trainer.lake.delete(f"{trainer.task.name}/training_runs/{RUN}")
    trainer.train()
    assert trainer.begun == 2  # what is no longer in the lake is trained again


def test_a_lost_spot_machine_is_followed_by_another(trainer, aws):
    trainer.script("pipes.log.info(f'process {begun}')\nif begun == 1: time.sleep(600)\ndone()")

    def lose(instance, run_id):
        wait_until(lambda: trainer.begun == 1)
        os.kill(aws.pid(job_of(trainer)), signal.SIGKILL)

    step = trainer.train(lose)
    assert step.run == RUN, step.failure
    assert trainer.begun == 2 and "process 2" in step.lines


def test_a_trainer_that_was_told_to_stop_goes_on(trainer):
    trainer.script("if begun < 3: sys.exit(75)\ndone()")
    step = trainer.train()
    assert step.run == RUN, step.failure
    assert trainer.begun == 3


def test_after_so_many_attempts_the_step_fails_and_may_be_retried(trainer):
    trainer.script("sys.exit(75)")
    step = trainer.train()
    assert isinstance(step.failure, Failure) and step.failure.allow_retries
    assert trainer.begun == 3


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("sys.exit(3)", "3"),
        ("pipes.report_custom_message({'error': {'type': 'BadInput', 'problem': 'a.jsonl:3: no', 'mend': 'x', "
         "'transient': False}}); sys.exit(2)", "a.jsonl:3: no\n  mend: x"),
    ],
)  # fmt: skip
def test_what_fails_the_same_way_again_is_not_tried_again(trainer, end, said):
    trainer.script(end)
    step = trainer.train()
    assert said in step.failure.description and not step.failure.allow_retries
    assert trainer.begun == 1


def test_a_killed_step_leaves_the_job_running_and_the_next_one_follows_it(trainer, aws):
    trainer.script("pipes.log.info('first words'); time.sleep(4); pipes.log.info('last words'); done()")

    def restart(instance, run_id):
        wait_until(lambda: trainer.begun == 1)
        os.kill(os.getpid(), signal.SIGINT)

    step = trainer.train(restart)
    assert isinstance(step.failure, DagsterExecutionInterruptedError)
    os.kill(aws.pid(job_of(trainer)), 0)  # it is alive
    step = trainer.train()
    assert step.run == RUN, step.failure
    assert trainer.begun == 1 and "first words" in step.lines and "last words" in step.lines


def test_a_job_that_was_submitted_and_not_noted_is_not_submitted_twice(trainer):
    trainer.script("done()")
    assert trainer.train().run == RUN
    folder = launch_folder(TrainingJob(trainer.task, trainer.dataset, None, trainer.lake, "", ""), trainer.place)
    trainer.lake.delete(f"{folder}/1/submitted.json")  # as if the step had been killed in between
    trainer.lake.delete(f"{folder}/1/ended.json")
    assert trainer.train().run == RUN
    assert trainer.begun == 1


def test_a_cancelled_run_ends_the_job(trainer, aws):
    trainer.script("signal.signal(signal.SIGTERM, lambda *_: (pipes.log.info('saved'), sys.exit(75)))\ntime.sleep(600)")

    def cancel(instance, run_id):
        wait_until(lambda: trainer.begun == 1)
        time.sleep(1)
        instance.report_run_canceling(instance.get_run_by_id(run_id))
        os.kill(os.getpid(), signal.SIGINT)

    step = trainer.train(cancel)
    assert isinstance(step.failure, DagsterExecutionInterruptedError)
    assert "saved" in step.lines
    with pytest.raises(ProcessLookupError):
        os.kill(aws.pid(job_of(trainer)), 0)
    trainer.script("done()")
    assert trainer.train().run == RUN and trainer.begun == 2


def test_sagemaker_is_asked_for_what_the_task_says(aws, s3_url, task_file, tmp_path):
    options = {"max_hours": 1, "max_wait_hours": 2, "subnets": ["subnet-1"], "security_groups": ["sg-1"]}
    trainer = make_trainer("sagemaker", s3_url, task_file, tmp_path, **options)
    trainer.script("done()")
    assert trainer.train().run == RUN
    job = boto3.client("sagemaker").describe_training_job(TrainingJobName=job_of(trainer))
    assert job["EnableManagedSpotTraining"] is True
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    assert job["ResourceConfig"] == {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 100}
    assert job["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert job["OutputDataConfig"]["S3OutputPath"].startswith(s3_url)


def test_a_full_cluster_is_a_failure_that_may_be_retried(aws, s3_url, task_file, tmp_path):
    trainer = make_trainer("ecs", s3_url, task_file, tmp_path, cluster="full")
    trainer.script("done()")
    step = trainer.train()
    assert isinstance(step.failure, TransientError) and "RESOURCE:GPU" in step.failure.problem


def test_a_task_that_runs_too_long_is_stopped(aws, s3_url, task_file, tmp_path):
    trainer = make_trainer("ecs", s3_url, task_file, tmp_path, max_hours=2 / 3600)
    trainer.script("time.sleep(600)")
    step = trainer.train()
    assert "max_hours" in step.failure.description and not step.failure.allow_retries


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:///mlflow.db", "a file of this machine"),
        ("postgresql://u:secret@db/x", "it holds a password"),
    ],
)
def test_what_the_machine_could_not_reach_or_would_show_is_refused_first(trainer, uri, said):
    trainer.tracking_uri = uri
    step = trainer.train()
    assert isinstance(step.failure, BadInput) and said in step.failure.problem and "secret" not in str(step.failure)
    assert trainer.begun == 0
