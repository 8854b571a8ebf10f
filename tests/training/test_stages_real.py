"""Documents, then answers, then preferences on a real model with real sentences; minutes on two cores."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_platform.lake import Lake
from finetune_platform.manifests import TrainingManifest
from finetune_platform.packages import package_file
from finetune_platform.rows import Example, Message
from finetune_platform.task_file import load_task
from finetune_platform.task_training import Stage, Training
from finetune_platform.training.chain import run_training
from finetune_platform.training.surroundings import Surroundings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DEMO = Path(__file__).parents[2] / "tasks" / "contract_entities.yaml"
NOTHING = "No entities found"
COMMON: dict[str, Any] = {"per_device_train_batch_size": 8, "max_length": 512, "eval_steps": 3, "num_train_epochs": 1}


def sentences(cache: Path) -> list[tuple[str, str]]:
    """Sentences of loan agreements that name somebody, and whom they name."""
    source = load_task(DEMO).sources[0]
    assert source.sha256 is not None
    lines = package_file(source.uri, source.sha256, cache, print).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = [(row["input"][-1]["content"], row["ideal"]) for row in rows]
    return [(sentence, entities) for sentence, entities in found if entities != NOTHING]


def every_kind(pairs: list[tuple[str, str]]) -> list[Example]:
    """Each sentence as a document, as a question with its answer, and as one whose other answer sees nothing there."""
    rows = []
    for n, (sentence, entities) in enumerate(pairs):
        place = {"source_uri": "ner_finance", "source_row": n}
        messages = [Message(role="user", content=sentence), Message(role="assistant", content=entities)]
        rows.append(Example(kind="text", messages=[], text=sentence, **place))
        rows.append(Example(messages=messages, **place))
        nothing = Message(role="assistant", content=NOTHING)
        rows.append(Example(kind="preference", messages=messages, rejected=nothing, **place))
    return rows


def test_each_stage_lowers_its_loss_and_preferences_raise_the_margin(
    publish_dataset: Any, tmp_path: Path, package_cache: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    dataset = publish_dataset(lake, every_kind(sentences(package_cache)[:100]))
    stages = [
        Stage(method="cpt", learning_rate=5e-4, **{**COMMON, "per_device_train_batch_size": 2, "max_length": 256}),
        Stage(method="sft", learning_rate=1e-3, **COMMON),
        Stage(method="dpo", learning_rate=1e-4, beta=0.1, **COMMON),
    ]
    task = load_task(DEMO).model_copy(update={"name": dataset.task, "training": Training(stages=stages)})
    surroundings = Surroundings(tmp_path / "work", f"sqlite:///{tmp_path}/mlflow.db", print)
    last = run_training(task, dataset, lake, package_cache, surroundings)
    assert [stage["method"] for stage in last.stages] == ["cpt", "sft", "dpo"]
    for stage in last.stages:
        run = lake.manifest(TrainingManifest, TrainingManifest.path_of(task.name, stage["training_run"]))
        log = [json.loads(line) for line in lake.get(f"{run.path}/log.jsonl").splitlines()]
        measured = [entry for entry in log if entry["validation_loss"] is not None]
        print(stage["method"], [round(entry["validation_loss"], 4) for entry in measured])
        assert measured[-1]["validation_loss"] < measured[0]["validation_loss"]
        if stage["method"] == "dpo":
            margins = [entry["measures"]["validation_reward_margin"] for entry in measured]
            print("reward margin", [round(margin, 3) for margin in margins])
            assert abs(log[0]["measures"]["reward_margin"]) < 1e-3, "the reference is where the stage begins"
            assert margins[-1] > margins[0] > 0
