"""A search on a real model with real sentences: what it finds beats what was written; minutes on two cores."""

from pathlib import Path
from typing import Any

import pytest
from test_stages_real import DEMO, every_kind, sentences

from finetune_platform.lake import Lake
from finetune_platform.task_file import load_task
from finetune_platform.task_search import Search
from finetune_platform.task_training import Stage, Training
from finetune_platform.training.chain import run_training
from finetune_platform.training.search.record import SearchManifest
from finetune_platform.training.surroundings import Surroundings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_it_finds_a_better_learning_rate_and_the_stage_is_as_good_as_its_trial(
    publish_dataset: Any, tmp_path: Path, package_cache: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    rows = [row for row in every_kind(sentences(package_cache)[:150]) if row.kind == "sft"]
    dataset = publish_dataset(lake, rows)
    stage = Stage(learning_rate=2e-4, per_device_train_batch_size=8, num_train_epochs=1, max_length=512)
    search = Search(minutes=20, trials=6, learning_rate=[5e-5, 1e-2], r=[4, 16])
    training = Training(stages=[stage], search=search)
    task = load_task(DEMO).model_copy(update={"name": dataset.task, "training": training})
    surroundings = Surroundings(tmp_path / "work", f"sqlite:///{tmp_path}/mlflow.db", print)
    trained = run_training(task, dataset, lake, package_cache, surroundings)
    found = lake.manifest(SearchManifest, SearchManifest.path_of(task.name, trained.parents["search"]))
    written, best = found.trials[0], found.trials[found.best - 1]
    assert written.options["learning_rate"] == 2e-4
    assert best.measured[-1] < 0.7 * written.measured[-1]
    assert trained.validation_loss == best.measured[-1]
    assert found.count("pruned") > 0
