"""A search on a real model with real sentences: what it finds beats what was written; minutes on two cores."""

from pathlib import Path
from typing import Any

import pytest
from real_runs import answers, sentences, trained

from finetune_platform.task_search import Search
from finetune_platform.task_training import Stage, Training
from finetune_platform.training.search.record import SearchManifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_it_finds_a_better_learning_rate_and_the_stage_is_as_good_as_its_trial(
    publish_dataset: Any, tmp_path: Path, package_cache: Path
) -> None:
    rows = answers(sentences(package_cache)[:150])
    stage = Stage(learning_rate=2e-4, per_device_train_batch_size=8, num_train_epochs=1, max_length=512)
    search = Search(minutes=20, trials=6, learning_rate=[5e-5, 1e-2], r=[4, 16])
    training = Training(stages=[stage], search=search)
    run, lake = trained(publish_dataset, rows, training, tmp_path, package_cache)
    found = lake.manifest(SearchManifest, SearchManifest.path_of(run.task, run.parents["search"]))
    written, best = found.trials[0], found.trials[found.best - 1]
    assert written.options["learning_rate"] == 2e-4
    assert best.measured[-1] < 0.7 * written.measured[-1]
    assert run.validation_loss == best.measured[-1]
    assert found.count("pruned") > 0
