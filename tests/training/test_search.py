"""A search for a stage's options: what it tries, what it keeps, and that a stop or a kill loses nothing."""

import json
import os
import signal
import time

import pytest
from company import Company
from killed_trainer import Point, run_until
from mlflow import MlflowClient
from test_killed import KEYS, PLACES
from test_stages import every_kind
from ticket_rows import examples

from finetune_platform.assets.trained_adapter import _metadata as metadata_of
from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.lake import Lake
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import parse_progress
from finetune_platform.registry.card import _training
from finetune_platform.task_search import Search
from finetune_platform.task_training import Training
from finetune_platform.training.__main__ import main
from finetune_platform.training.chain import run_training
from finetune_platform.training.loop import Stopped
from finetune_platform.training.search import attempt, proposals
from finetune_platform.training.search.record import SearchManifest
from finetune_platform.training.surroundings import Surroundings

SEARCHED = {"minutes": 30, "trials": 5, "learning_rate": [1e-4, 0.03], "r": [2, 4]}


@pytest.fixture
def train(publish_dataset, make_task, tmp_path):
    """Searches and trains; `lines` holds what was reported."""
    lines = []

    def run(lake, stop=lambda: False, rows=60, search=SEARCHED, **stage):
        dataset = publish_dataset(lake, examples(rows))
        task = make_task(**stage)
        training = Training(stages=task.training.stages, search=search and Search(**search))
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        surroundings = Surroundings(tmp_path / "work", uri, lines.append, stop=stop, progress_every_s=0)
        return run_training(task.model_copy(update={"training": training}), dataset, lake, tmp_path, surroundings)

    run.lines = lines
    return run


def found_by(lake: Lake, trained: TrainingManifest) -> SearchManifest:
    return lake.manifest(SearchManifest, f"{trained.task}/searches/{trained.parents['search']}")


def outcomes(found: SearchManifest):
    return [(t.number, t.options, t.state, t.measured, t.steps, t.steps_done) for t in found.trials]


def test_the_options_with_the_lowest_loss_are_trained_and_every_trial_can_be_seen(train, lake, tmp_path):
    trained = train(lake)
    found = found_by(lake, trained)
    whole = [trial for trial in found.trials if trial.state == "complete"]
    best = min(whole, key=lambda trial: trial.measured[-1])
    assert [trial.number for trial in found.trials] == [1, 2, 3, 4, 5] and found.ended_by == "trials"
    assert found.trials[0].options == {"learning_rate": 0.01, "r": 4}, "first what the file says"
    assert len({json.dumps(trial.options) for trial in found.trials}) == 5
    assert found.best == best.number and found.chosen == best.options
    # The stage is trained with them as if they had been written by hand, and is as good as its trial was.
    (stage,) = trained.stages
    assert stage["learning_rate"] == best.options["learning_rate"]
    assert (stage["peft"]["r"], stage["peft"]["lora_alpha"]) == (best.options["r"], 2 * best.options["r"])
    assert trained.artifact_id == found.training_run and trained.validation_loss == best.measured[-1]
    assert trained.searched and trained.searched.seconds == found.seconds > 0
    assert f"{found.artifact_id} chose learning_rate=" in _training(trained)
    for trial in found.trials:
        rungs = [3, 8, 24]
        assert trial.steps == 24 and trial.steps_done == rungs[len(trial.measured) - 1]
        assert (trial.state == "complete") == (len(trial.measured) == 3)
    assert lake.get(f"{found.path}/trials.svg").startswith(b"<?xml")
    shown = metadata_of(trained, lake, "sqlite://")["search/trials"].value.records
    assert [row.data["state"] for row in shown][best.number - 1] == "chosen" and len(shown) == 5

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    parent = client.get_run(found.mlflow_run_id)
    assert parent.info.status == "FINISHED" and parent.data.tags["best_trial"] == str(best.number)
    (experiment,) = {parent.info.experiment_id}
    runs = client.search_runs([experiment], f"tags.search_id = '{found.artifact_id}'")
    by_number = {int(run.data.tags["trial"]): run for run in runs}
    assert sorted(by_number) == [1, 2, 3, 4, 5]
    for trial in found.trials:
        run = by_number[trial.number]
        assert run.info.run_id == trial.mlflow_run_id
        assert run.data.tags["mlflow.parentRunId"] == found.mlflow_run_id
        assert run.data.tags["trial_state"] == trial.state
        assert float(run.data.params["learning_rate"]) == trial.options["learning_rate"]
        curve = client.get_metric_history(run.info.run_id, "validation_loss")
        assert [point.value for point in curve] == pytest.approx(trial.measured)
        assert len(client.get_metric_history(run.info.run_id, "loss")) == trial.steps_done

    told = [line for line in train.lines if (seen := parse_progress(line)) and seen.stage == "search"]
    assert told[-1].startswith("search 4/5 trials | ") and " left | best " in told[-1] and "trial 5: step" in told[-1]
    train.lines.clear()
    assert train(lake) == trained
    assert len(train.lines) == 2 and train.lines[0].startswith(f"search: {found.artifact_id} is finished already")


def test_a_stopped_search_goes_on_with_the_trial_under_way_and_tries_what_it_would_have(train, tmp_path):
    whole = found_by(Lake(str(tmp_path / "a")), train(Lake(str(tmp_path / "a"))))
    broken, passes = Lake(str(tmp_path / "b")), 0

    def stop():
        nonlocal passes
        passes += 1
        return passes in (26, 27)  # asked once more when the loop has ended

    with pytest.raises(Stopped):
        train(broken, stop=stop)
    assert "search: stopped in trial 2 of 5; the same command goes on with it" in train.lines
    kept = json.loads(broken.get(f"{whole.path}/trials/0002.json"))
    assert kept["state"] == "running" and kept["unended"] == 0 and kept["seconds"] > 0
    train.lines.clear()
    again = found_by(broken, train(broken))
    assert outcomes(again) == outcomes(whole)
    assert not any("trial 1: step" in line for line in train.lines), "finished trials are not repeated"


def test_a_trial_that_fails_is_not_the_end_and_the_written_options_are_the_run_without_a_search(train, local_lake):
    plain = train(Lake(local_lake.url + "-plain"), search=None)
    trained = train(local_lake, search={**SEARCHED, "learning_rate": [0.01, 1e35], "trials": 4, "seed": 1})
    found = found_by(local_lake, trained)
    states = [trial.state for trial in found.trials]
    assert states[0] == "complete" and "failed" in states
    failed = found.trials[states.index("failed")]
    assert "is not finite" in failed.reason or "is nan" in failed.reason or "is inf" in failed.reason
    assert found.best == 1 and trained.artifact_id == plain.artifact_id
    assert "search" not in plain.parents and plain.searched is None


def test_a_search_in_which_all_fail_says_why_and_says_it_again_at_once(train, local_lake):
    search = {**SEARCHED, "learning_rate": [1e32, 1e35], "trials": 2}
    for _ in range(2):
        with pytest.raises(
            PermanentError, match=r"training\.search: none of 2 trials was trained to its end, 2 failed"
        ):
            train(local_lake, search=search)
    assert not [o for o in local_lake.list("ticket_topics") if "training_runs" in o.path or "manifest" in o.path][1:]


class Clock:
    """A second passes whenever somebody looks."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        self.now += 1
        return self.now


@pytest.mark.slow
def test_the_minutes_end_it_and_what_was_measured_until_then_decides(train, local_lake, monkeypatch):
    monkeypatch.setattr(attempt, "time", Clock())
    other = Lake(f"{local_lake.url}-before")
    first, *_ = found_by(other, train(other)).trials
    short = {**SEARCHED, "minutes": (first.seconds + 5) / 60}
    found = found_by(local_lake, train(local_lake, search=short))
    assert found.ended_by == "minutes" and [trial.state for trial in found.trials] == ["complete", "out_of_time"]
    assert 0 < found.trials[1].steps_done < 3 and found.trials[1].measured == [] and found.best == 1
    with pytest.raises(PermanentError, match=r"0\.1 minutes were over before one trial was trained to its end"):
        train(local_lake, search={**SEARCHED, "minutes": 0.1})


def test_without_optuna_or_rows_to_compare_on_nothing_is_begun(train, local_lake, monkeypatch):
    with pytest.raises(BadInput, match=r"the validation split has 8 units of kind sft(?s:.*)until there are 10"):
        train(local_lake, rows=40)
    monkeypatch.setattr(proposals, "find_spec", lambda name: None)
    train.lines.clear()
    with pytest.raises(BadInput, match=r"Optuna .* is not installed here(?s:.*)finetune-platform\[search\]"):
        train(local_lake)
    assert train.lines == []
    assert train(local_lake, search=None).steps == 24, "others need it not"


@pytest.mark.slow
def test_a_whole_model_is_searched_for_like_an_adapter(train, local_lake):
    search = {"minutes": 30, "trials": 3, "learning_rate": [1e-5, 1e-2], "weight_decay": [0.0, 0.1]}
    trained = train(local_lake, search=search, peft=None, num_train_epochs=1)
    found = found_by(local_lake, trained)
    assert trained.is_whole and trained.validation_loss == found.trials[found.best - 1].measured[-1]


@pytest.mark.parametrize("searched", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_in_a_chain_one_stage_is_searched_and_all_have_its_adapter(
    publish_dataset, make_task, local_lake, tmp_path, searched
):
    dataset = publish_dataset(local_lake, every_kind(60))
    (sft,) = make_task(num_train_epochs=1).training.stages
    stages = [sft, sft.model_copy(update={"method": "dpo"})]
    what = [{"r": [4, 8], "lora_alpha": [8.0, 64.0]}, {"learning_rate": [0.001, 0.1], "num_train_epochs": [1, 2]}]
    search = Search(minutes=30, trials=3, stage=searched, **what[searched])
    task = make_task().model_copy(update={"training": Training(stages=stages, search=search)})
    surroundings = Surroundings(tmp_path / "work", f"sqlite:///{tmp_path / 'mlflow.db'}", lambda line: None)
    last = run_training(task, dataset, local_lake, tmp_path, surroundings)
    found = found_by(local_lake, last)
    assert found.stage == searched and last.searched and last.searched.chosen == found.chosen
    runs = [TrainingManifest.path_of(task.name, stage["training_run"]) for stage in last.stages]
    first, second = (local_lake.manifest(TrainingManifest, path) for path in runs)
    assert first.stages[0]["peft"] == second.stages[1]["peft"]
    best = found.trials[found.best - 1]
    if searched == 0:
        assert (first.stages[0]["peft"]["r"], first.stages[0]["peft"]["lora_alpha"]) == tuple(found.chosen.values())
        assert first.validation_loss == best.measured[-1]
    else:
        assert "search" not in first.parents and found.parents["training_run"] == first.artifact_id
        assert second.stages[1]["learning_rate"] == found.chosen["learning_rate"]
        # The reference of all trials is the model where the stage begins, computed once.
        assert second.validation_loss == best.measured[-1]


@pytest.fixture
def command(settings_env, publish_dataset, make_task):
    """The trainer's command line and environment for a task that searches."""
    lake = Lake(settings_env.lake_url)
    publish_dataset(lake, examples(60))

    def make(search):
        path = make_task().path
        path.write_text(path.read_text().replace("training:\n", f"training:\n  search: {json.dumps(search)}\n"))
        environment = {name: os.environ[name] for name in (*PLACES, *KEYS, "LAKE_URL") if name in os.environ}
        return ["--task-file", str(path), "--dataset", "ds-000000000001", "--progress-every", "0"], environment

    make.lake = lake
    return make


def the_search_in(lake: Lake) -> SearchManifest:
    (manifest,) = [o.path for o in lake.list("ticket_topics/searches") if o.path.endswith("manifest.json")]
    return lake.manifest(SearchManifest, manifest.rpartition("/")[0])


@pytest.mark.slow
def test_a_trial_that_kills_its_process_twice_counts_as_failed(command):
    arguments, environment = command({**SEARCHED, "trials": 2})
    for _ in range(2):
        assert run_until(Point("step", 12), arguments, environment) == -9
    assert run_until(None, arguments, environment) == 0
    found = the_search_in(command.lake)
    assert [trial.state for trial in found.trials] == ["failed", "complete"]
    assert found.trials[0].reason == "its process was killed 2 times (out of memory?)"
    assert found.trials[0].seconds > 0, "the time that it took counts"


def train_as_one_of_several(arguments):
    raise SystemExit(main(arguments))


@pytest.mark.slow
def test_two_processes_search_as_one_and_stop_together(command, tmp_path):
    arguments, environment = command({**SEARCHED, "trials": 3})
    company = Company(2, train_as_one_of_several, arguments, environment=environment)
    deadline = time.monotonic() + 100
    while not any("/trials/0002" in o.path for o in command.lake.list("ticket_topics/searches")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(company.processes[1].pid, signal.SIGTERM)
    assert company.codes() == [75, 75]
    assert Company(2, train_as_one_of_several, arguments, environment=environment).codes() == [0, 0]
    together = the_search_in(command.lake)
    for info in command.lake.list("ticket_topics/searches"):
        command.lake.delete(info.path)
    assert run_until(None, arguments, environment) == 0
    alone = the_search_in(command.lake)
    assert [(t.options, t.state, t.steps_done) for t in together.trials] == [
        (t.options, t.state, t.steps_done) for t in alone.trials
    ]
    for one, two in zip(alone.trials, together.trials, strict=True):
        assert one.measured == pytest.approx(two.measured, rel=1e-4)
