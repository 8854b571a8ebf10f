"""Training at OpenAI, against a server that holds every request to the published OpenAPI document."""

import json
import os
import signal
import time

import pytest
from dagster import DagsterExecutionInterruptedError
from fine_tuning_server import KEY, MODEL, FineTuningServer, Schemas
from hosted_steps import train_in_a_step
from ticket_rows import TASK, example

from finetune_platform.assets.evaluation_report import _evaluation as evaluation_of
from finetune_platform.assets.trained_adapter import _metadata as metadata_of
from finetune_platform.errors import BadInput, PermanentError, Unreachable
from finetune_platform.lake import Lake
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.openai_launcher import OpenAiLauncher
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.settings import settings
from finetune_platform.task_file import load_task

LAUNCHER = OpenAiLauncher(poll_s=0.05, stop_grace_s=5)


@pytest.fixture(scope="module")
def schemas():
    return Schemas()


@pytest.fixture
def server(schemas):
    started = FineTuningServer(schemas).start()
    yield started
    started.shutdown()


@pytest.fixture
def job(server, settings_env, task_file, publish_dataset, monkeypatch):
    """Makes a job for the server; keywords are more of `launcher.openai`."""
    monkeypatch.setenv("UPSTREAM_API_KEYS", json.dumps({"openai": KEY}))
    settings.cache_clear()
    lake = Lake(settings_env.lake_url)

    def make(rows=None, warm_start=None, **options):
        place = {"model": "gpt-4.1-nano", "url": server.url, "api_key": "openai", **options}
        task = load_task(task_file(launcher={"place": "openai", "openai": place}))
        return TrainingJob(task, publish_dataset(lake, rows), warm_start, lake, "", "")

    return make


def test_a_job_leaves_a_hosted_model_in_the_manifest(server, job):
    asked = job([example(f"Ticket {n}", "card", n, weight=n % 2) for n in range(10)], n_epochs=3)
    step = train_in_a_step(LAUNCHER, asked)
    assert step.failure is None and server.refused == []
    trained = asked.lake.manifest(TrainingManifest, TrainingManifest.path_of(TASK, step.run))
    assert trained.hosted.model == MODEL and trained.hosted.job == step.tags["finetune/job"] == "ftjob-1"
    assert (trained.steps, trained.first_loss, trained.validation_loss) == (3, 1.0, 0.4)
    assert trained.supervised_tokens == 4321 and trained.train_seconds == 60
    assert [info.path.rpartition("/")[2] for info in asked.lake.list(trained.path)] == ["log.jsonl", "manifest.json"]
    assert "openai: Step 3/3: training loss=0.33" in step.lines
    assert len([line for line in step.lines if line.startswith("openai: Step")]) == 3
    line = json.loads(server.contents["file-1"].splitlines()[1])
    assert line["messages"] == [
        {"role": "system", "content": "Name the topic."},
        {"role": "user", "content": "Ticket 1"},
        {"role": "assistant", "content": "card", "weight": 1},
    ]
    assert metadata_of(trained, asked.lake, "")["hosted model"] == f"{MODEL} at openai"
    with pytest.raises(PermanentError, match="openai keeps the model as ft:"):
        evaluation_of(asked.task, asked.dataset, trained, None, asked.lake, None, print)
    assert train_in_a_step(LAUNCHER, asked).run == step.run
    assert len(server.jobs) == 1


def test_a_job_whose_answer_was_lost_is_not_submitted_twice(server, job):
    server.lost = ["POST /fine_tuning/jobs"]
    step = train_in_a_step(LAUNCHER, job())
    assert isinstance(step.failure, Unreachable)
    assert train_in_a_step(LAUNCHER, job()).run
    assert len(server.jobs) == 1 and len(server.files) == 2


def test_a_server_that_does_not_answer_for_a_moment_is_asked_again(server, job):
    server.lost = ["GET /fine_tuning/jobs/ftjob-1"] * 2
    step = train_in_a_step(LAUNCHER, job())
    assert step.run and any("is asked for again" in line for line in step.lines)


def test_the_servers_own_failure_is_tried_again_and_a_wrong_file_is_not(server, job):
    server.ends, server.error = ["failed", "succeeded"], {"code": "server_error", "message": "Sorry", "param": None}
    assert train_in_a_step(LAUNCHER, job()).run
    assert len(server.jobs) == 2
    server.ends, server.error = ["failed"], {"code": "invalid_training_file", "message": "Too few", "param": None}
    step = train_in_a_step(LAUNCHER, job(n_epochs=5))
    assert "Too few" in step.failure.description and not step.failure.allow_retries
    assert len(server.jobs) == 3


def test_cancel_ends_the_job_and_a_restart_does_not(server, job):
    server.ends = ["running"]

    def interrupt(instance, run_id, cancel):
        before = dict(server.looks)
        while server.looks == before:
            time.sleep(0.02)
        if cancel:
            instance.report_run_canceling(instance.get_run_by_id(run_id))
        os.kill(os.getpid(), signal.SIGINT)

    step = train_in_a_step(LAUNCHER, job(), lambda *run: interrupt(*run, cancel=False))
    assert isinstance(step.failure, DagsterExecutionInterruptedError)
    assert server.jobs["ftjob-1"]["status"] == "running"
    step = train_in_a_step(LAUNCHER, job(), lambda *run: interrupt(*run, cancel=True))
    assert isinstance(step.failure, DagsterExecutionInterruptedError)
    assert server.jobs["ftjob-1"]["status"] == "cancelled" and len(server.jobs) == 1


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"api_key": "other"}, BadInput, "UPSTREAM_API_KEYS has no other"),
        ({"api_key": None}, PermanentError, "Incorrect API key provided"),
        ({"warm_start": "ad-1"}, BadInput, "retraining.warm_start"),
        ({"rows": [example("a", "b", weight=0.5)] * 10}, BadInput, "raw/tickets.jsonl:1: a message has weight 0.5"),
        ({"n_epochs": 51}, PermanentError, "is not valid under any of the given schemas"),
    ],
)
def test_what_cannot_be_trained_there_is_told(job, options, error, said):
    step = train_in_a_step(LAUNCHER, job(**options))
    assert isinstance(step.failure, error) and said in step.failure.problem
