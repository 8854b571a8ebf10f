"""`training:` in a task file: a base model that cannot be divided is refused with its key, before anything is done."""

import pytest

from finetune_platform.errors import BadInput
from finetune_platform.task_file import load_task
from finetune_platform.training.hosted import expect_plain_sft

PRIVATE = {"method": "sft", "privacy": {"noise_multiplier": 1.0, "delta": 1e-5}}


def test_a_base_model_is_divided_among_as_many_processes_as_there_are_or_as_are_written(task_file):
    for processes in ("auto", 4):
        for peft in ({"r": 4}, None):
            task = load_task(task_file(training={"processes": processes, "fsdp": True, "stages": [{"peft": peft}]}))
            assert task.training.fsdp


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"processes": 1}, "fsdp: divides the base model among processes, and processes is 1"),
        ({"stages": [{"quantization": {"load_in_4bit": True}}]}, "stages[0].quantization holds them so"),
        ({"stages": [{"method": "cpt"}, PRIVATE]}, "stages[1].privacy asks for"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_its_key(task_file, training, said):
    with pytest.raises(BadInput) as raised:
        load_task(task_file(training={"fsdp": True, **training}))
    assert said in raised.value.problem and "training" in raised.value.problem
    assert load_task(task_file(training=training))


def test_a_provider_that_trains_itself_is_not_told_how_to_hold_its_model(task_file):
    with pytest.raises(BadInput, match=r"training.fsdp: openai decides itself"):
        expect_plain_sft(load_task(task_file(training={"fsdp": True})), None, "openai")
