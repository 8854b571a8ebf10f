"""Private training of a real model on real sentences; minutes on two cores."""

import json
from pathlib import Path
from typing import Any

import pytest
from opacus.accountants import PRVAccountant
from test_stages_real import DEMO, every_kind, sentences

from finetune_platform.lake import Lake
from finetune_platform.task_file import load_task
from finetune_platform.task_privacy import DifferentialPrivacy
from finetune_platform.task_training import Lora, Stage, Training
from finetune_platform.training.chain import run_training
from finetune_platform.training.surroundings import Surroundings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_it_learns_within_its_budget(publish_dataset: Any, tmp_path: Path, package_cache: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    rows = [row for row in every_kind(sentences(package_cache)[:150]) if row.kind == "sft"]
    stage = Stage(
        privacy=DifferentialPrivacy(target_epsilon=8, delta=1e-3, max_grad_norm=1.0),
        peft=Lora(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        per_device_train_batch_size=40,
        num_train_epochs=5,
        learning_rate=2e-3,
        max_length=512,
        eval_steps=5,
    )
    dataset = publish_dataset(lake, rows)
    task = load_task(DEMO).model_copy(update={"name": dataset.task, "training": Training(stages=[stage])})
    surroundings = Surroundings(tmp_path / "work", f"sqlite:///{tmp_path}/mlflow.db", print)
    manifest = run_training(task, dataset, lake, package_cache, surroundings)
    (promised,) = manifest.privacy
    theirs = PRVAccountant()
    for _ in range(manifest.steps):
        theirs.step(noise_multiplier=promised.noise_multiplier, sample_rate=40 / 120)
    assert promised.epsilon == theirs.get_epsilon(delta=1e-3) <= 8
    log = [json.loads(line) for line in lake.get(f"{manifest.path}/log.jsonl").splitlines()]
    measured = [entry["validation_loss"] for entry in log if entry["validation_loss"] is not None]
    print(promised.in_words, [round(loss, 4) for loss in measured], f"{manifest.rows_per_second:.2f} rows/s")
    assert measured[-1] < measured[0]
