"""Which place trains a task, and what the location says of a task that cannot be trained there."""

import pytest

from finetune_platform.definitions import build_defs
from finetune_platform.errors import BadInput
from finetune_platform.resources.launcher import launcher_at, place_of
from finetune_platform.settings import settings
from finetune_platform.task_file import load_task
from finetune_platform.task_launcher import Place

ECS = {"cluster": "gpus", "task_definition": "finetune", "container": "trainer"}


def test_a_tasks_own_place_goes_before_the_setting(task_file):
    assert place_of(load_task(task_file(launcher={"ecs": ECS})), "local") == "local"
    assert place_of(load_task(task_file(launcher={"ecs": ECS})), "ecs") == "ecs"
    assert place_of(load_task(task_file(launcher={"place": "ecs", "ecs": ECS})), "local") == "ecs"


def test_a_location_whose_tasks_cannot_be_trained_where_they_should_be_does_not_load(
    settings_env, task_file, monkeypatch
):
    task = load_task(task_file())
    monkeypatch.setenv("LAUNCHER", "sagemaker")
    settings.cache_clear()
    with pytest.raises(BadInput, match=r"ticket_topics\.yaml: training runs at sagemaker, so launcher needs sagemaker"):
        build_defs(tasks=[task])


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ({"place": "ecs"}, "launcher needs ecs"),
        ({"ecs": {**ECS, "launch_type": "EC2", "capacity_provider": "x"}}, "either capacity_provider or launch_type"),
        ({"ecs": {**ECS, "environment": {"a-b": "c"}}}, "environment"),
        ({"ecs": {**ECS, "clustre": "x"}}, 'did you mean "cluster"'),
    ],
)
def test_what_a_place_cannot_be_is_told_with_its_key(task_file, launcher, said):
    with pytest.raises(BadInput) as raised:
        load_task(task_file(launcher=launcher))
    assert said in raised.value.problem


@pytest.mark.parametrize("place", Place.__args__)
def test_every_place_has_its_launcher(place):
    assert type(launcher_at(place)).__name__.lower() == f"{place}launcher"
