"""`training.search:` in a task file: what makes no sense is refused with its key, before anything is done."""

import sys

import pytest
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.errors import BadInput
from finetune_platform.resources.launcher import place_of
from finetune_platform.task_file import load_task

STAGES = [{"method": "cpt"}, {"method": "sft"}]
PRIVATE = [{"method": "sft", "privacy": {"noise_multiplier": 1.0, "delta": 1e-5}}]
RATE = {"minutes": 10, "learning_rate": [1e-5, 1e-3]}
RAY = {"address": "http://head:8265", "max_hours": 1}


def test_a_search_is_read_with_its_values_as_the_stage_has_them(task_file):
    search = {**RATE, "r": [8, 16], "num_train_epochs": [1, 2]}
    read = load_task(task_file(training={"search": search})).training.search
    assert read.values == {"learning_rate": [1e-5, 1e-3], "num_train_epochs": [1.0, 2.0], "r": [8, 16]}
    assert (read.minutes, read.trials, read.stage) == (10, 16, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"search": {"minutes": 10}}}, "names no option to search for"),
        ({"training": {"search": {**RATE, "minutes": 0}}}, "training.search.minutes: Input should be greater than 0"),
        ({"training": {"search": {**RATE, "learning_rate": [1e-3, 1e-5]}}}, "the lowest value comes first"),
        ({"training": {"search": {**RATE, "r": [8]}}}, "training.search.r: List should have at least 2 items"),
        ({"training": {"search": {**RATE, "r": [8, 8]}}}, "training.search.r: one value stands there twice"),
        ({"training": {"search": {**RATE, "lora_dropout": [0, 1]}}}, "training.search.lora_dropout.1"),
        ({"training": {"search": {**RATE, "learning_rat": [1, 2]}}}, 'did you mean "learning_rate"'),
        ({"training": {"search": {**RATE, "stage": 1}}}, "search.stage is 1, and the last stage is 0"),
        ({"training": {"search": RATE, "stages": PRIVATE}}, "its privacy does not cover that"),
        (
            {"training": {"search": {"minutes": 1, "stage": 1, "r": [8, 16]}, "stages": STAGES}},
            r"search.r: stages[1] trains the adapter of the stage before on",
        ),
        (
            {"training": {"search": {"minutes": 1, "r": [8, 16]}, "stages": [{"peft": None}]}},
            "search.r: stages[0].peft: null has no adapter",
        ),
        (
            {"training": {"search": {"minutes": 1, "r": [8, 16]}}, "retraining": {"warm_start": {}}},
            "training.search.r: with retraining.warm_start training begins at the champion",
        ),
        (
            {"training": {"search": RATE}, "retraining": {"warm_start": {"learning_rate": 1e-4}}},
            "retraining.warm_start.learning_rate: training.search searches for it too",
        ),
        (
            {"training": {"search": RATE}, "launcher": {"place": "openai", "openai": {"model": "m"}}},
            "training.search: openai trains by itself and makes no trials",
        ),
        (
            {"training": {"search": {**RATE, "minutes": 60}}, "launcher": {"place": "ray", "ray": RAY}},
            "training.search.minutes is 60, and launcher.ray.max_hours ends the job after 60",
        ),
    ],
)
def test_what_makes_no_sense_is_told_with_its_key(task_file, changes, said):
    with pytest.raises(BadInput) as raised:
        load_task(task_file(**changes))
    assert said in raised.value.problem


def test_the_setting_that_says_where_is_held_to_the_same(task_file):
    task = load_task(task_file(training={"search": RATE}, launcher={"openai": {"model": "m"}, "ray": RAY}))
    assert place_of(task, "local") == "local" and place_of(task, "ray") == "ray"
    with pytest.raises(BadInput, match="openai trains by itself and makes no trials"):
        place_of(task, "openai")


def test_validate_tells_that_optuna_is_missing(settings_env, task_file, tiny_model, monkeypatch):
    task_file(base_model={"uri": str(tiny_model)}, training={"search": RATE})
    assert CliRunner().invoke(app, ["validate"]).exit_code == 0
    monkeypatch.setitem(sys.modules, "optuna", None)
    told = CliRunner().invoke(app, ["validate"])
    assert told.exit_code == 2 and "it is not installed here" in told.output
    assert "pip install 'finetune-platform[search]'" in told.output
