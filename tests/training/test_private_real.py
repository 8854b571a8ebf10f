"""Private training of a real model on real sentences; minutes on two cores."""

from pathlib import Path
from typing import Any

import pytest
from opacus.accountants import PRVAccountant
from real_runs import answers, sentences, steps_of, trained

from finetune_platform.task_privacy import DifferentialPrivacy
from finetune_platform.task_training import Lora, Stage, Training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_it_learns_within_its_budget(publish_dataset: Any, tmp_path: Path, package_cache: Path) -> None:
    rows = answers(sentences(package_cache)[:150])
    stage = Stage(
        privacy=DifferentialPrivacy(target_epsilon=8, delta=1e-3, max_grad_norm=1.0),
        peft=Lora(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        per_device_train_batch_size=40,
        num_train_epochs=5,
        learning_rate=2e-3,
        max_length=512,
        eval_steps=5,
    )
    manifest, lake = trained(publish_dataset, rows, Training(stages=[stage]), tmp_path, package_cache)
    (promised,) = manifest.privacy
    theirs = PRVAccountant()
    for _ in range(manifest.steps):
        theirs.step(noise_multiplier=promised.noise_multiplier, sample_rate=40 / 120)
    assert promised.epsilon == theirs.get_epsilon(delta=1e-3) <= 8
    log = steps_of(manifest, lake)
    measured = [entry["validation_loss"] for entry in log if entry["validation_loss"] is not None]
    print(promised.in_words, [round(loss, 4) for loss in measured], f"{manifest.rows_per_second:.2f} rows/s")
    assert measured[-1] < measured[0]
