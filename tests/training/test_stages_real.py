"""Documents, then answers, then preferences on a real model with real sentences; minutes on two cores."""

from pathlib import Path
from typing import Any

import pytest
from real_runs import COMMON, every_kind, sentences, steps_of, trained

from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.task_training import Stage, Training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_each_stage_lowers_its_loss_and_preferences_raise_the_margin(
    publish_dataset: Any, tmp_path: Path, package_cache: Path
) -> None:
    stages = [
        Stage(method="cpt", learning_rate=5e-4, **{**COMMON, "per_device_train_batch_size": 2, "max_length": 256}),
        Stage(method="sft", learning_rate=1e-3, **COMMON),
        Stage(method="dpo", learning_rate=1e-4, beta=0.1, **COMMON),
    ]
    rows = every_kind(sentences(package_cache)[:100])
    last, lake = trained(publish_dataset, rows, Training(stages=stages), tmp_path, package_cache)
    assert [stage["method"] for stage in last.stages] == ["cpt", "sft", "dpo"]
    for stage in last.stages:
        run = lake.manifest(TrainingManifest, TrainingManifest.path_of(last.task, stage["training_run"]))
        log = steps_of(run, lake)
        measured = [entry for entry in log if entry["validation_loss"] is not None]
        print(stage["method"], [round(entry["validation_loss"], 4) for entry in measured])
        assert measured[-1]["validation_loss"] < measured[0]["validation_loss"]
        if stage["method"] == "dpo":
            margins = [entry["measures"]["validation_reward_margin"] for entry in measured]
            print("reward margin", [round(margin, 3) for margin in margins])
            assert abs(log[0]["measures"]["reward_margin"]) < 1e-3, "the reference is where the stage begins"
            assert margins[-1] > margins[0] > 0
