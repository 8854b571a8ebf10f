"""A real model in 4 bits learns real sentences, and the record tells how much of that is left as it is served."""

from pathlib import Path
from typing import Any

import pytest
from real_runs import COMMON, answers, sentences, trained

from finetune_platform.task_training import Quantization, Stage, Training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_most_of_what_is_learned_beside_4_bits_is_left_beside_the_whole_model(
    publish_dataset: Any, tmp_path: Path, package_cache: Path
) -> None:
    rows = answers(sentences(package_cache)[:100])
    stage = Stage(learning_rate=1e-3, quantization=Quantization(load_in_4bit=True), **COMMON)
    run, _ = trained(publish_dataset, rows, Training(stages=[stage]), tmp_path, package_cache)
    assert run.served and run.served.validation_loss and run.validation_loss and run.first_loss
    print(run.first_loss, run.served_in_words)
    # A nat below the start, and the rounding costs a 135M model a part of that.
    assert run.validation_loss < run.served.validation_loss < run.validation_loss + 0.4
    assert run.validation_loss < run.first_loss - 0.5
    assert max(run.preflight["loss_difference"], run.preflight["gradient_difference"]) < 1e-4
