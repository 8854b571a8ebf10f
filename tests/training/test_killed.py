"""SIGKILL at random points of a run: every start goes on, and the curve is that of a run that nobody killed."""

import os

import pytest
from killed_trainer import points, run_until

from finetune_platform.lake import Lake
from finetune_platform.training.loop import StepLog

SAVE_STEPS = 5
PLACES = ("FINETUNE_HOME", "DATABASE_URL", "TASKS_DIR", "NO_PROXY", "AWS_ENDPOINT_URL", "AWS_REGION")
ADAPTER = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def trainer(settings_env, publish_dataset, make_task):
    """Runs the trainer on a lake, until a point where there is one; returns its exit code."""
    published = set()

    def run(lake: Lake, point=None, epochs=4, peft=ADAPTER):
        task = make_task(
            num_train_epochs=epochs,
            peft=peft,
            save_steps=SAVE_STEPS,
            eval_steps=12,
        )
        if lake.url not in published:
            publish_dataset(lake)
            published.add(lake.url)
        environment = {name: os.environ[name] for name in (*PLACES, *KEYS) if name in os.environ}
        arguments = ["--task-file", str(task.path), "--dataset", "ds-000000000001", "--progress-every", "0"]
        return run_until(point, arguments, {**environment, "LAKE_URL": lake.url})

    return run


def curve(lake: Lake):
    (log,) = [o.path for o in lake.list("ticket_topics/training_runs") if o.path.count("/") == 3 and "log" in o.path]
    entries = [StepLog.from_line(line) for line in lake.get(log).decode().splitlines()]
    return [(e.step, e.loss, e.learning_rate, e.grad_norm, e.validation_loss) for e in entries]


def goes_on_after(kills, trainer, lake, tmp_path, epochs, peft=ADAPTER):
    whole = Lake(str(tmp_path / "not-killed"))
    assert trainer(whole, epochs=epochs, peft=peft) == 0
    for point in kills:
        assert trainer(lake, point, epochs, peft) == -9, point
    assert trainer(lake, epochs=epochs, peft=peft) == 0
    assert curve(lake) == curve(whole)


@pytest.mark.parametrize("peft", [ADAPTER, None], ids=["adapter", "all weights"])
def test_a_run_killed_at_four_points_has_the_curve_of_one_that_was_not(trainer, local_lake, tmp_path, peft):
    goes_on_after(points(4, 24, SAVE_STEPS, seed=0), trainer, local_lake, tmp_path, epochs=3, peft=peft)


@pytest.mark.slow
def test_a_run_killed_at_twenty_points_has_the_curve_of_one_that_was_not(trainer, lake, tmp_path):
    goes_on_after(
        points(20, 96, SAVE_STEPS, seed=1 if lake.url.startswith("s3") else 2), trainer, lake, tmp_path, epochs=12
    )
