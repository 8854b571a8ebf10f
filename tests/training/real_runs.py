"""A real model trained on real sentences: what the long tests of training share."""

import json
from pathlib import Path
from typing import Any

from finetune_platform.lake import Lake
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.packages import package_file
from finetune_platform.rows import Example, Message
from finetune_platform.task_file import load_task
from finetune_platform.task_training import Training
from finetune_platform.training.chain import run_training
from finetune_platform.training.surroundings import Surroundings

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


def answers(pairs: list[tuple[str, str]]) -> list[Example]:
    """Each sentence as a question with its answer."""
    return [row for row in every_kind(pairs) if row.kind == "sft"]


def trained(
    publish_dataset: Any, rows: list[Example], training: Training, folder: Path, cache: Path
) -> tuple[TrainingManifest, Lake]:
    """The run that the demo's task makes of some rows, and the lake that holds it."""
    lake = Lake(str(folder / "lake"))
    dataset = publish_dataset(lake, rows)
    task = load_task(DEMO).model_copy(update={"name": dataset.task, "training": training})
    surroundings = Surroundings(folder / "work", f"sqlite:///{folder}/mlflow.db", print)
    return run_training(task, dataset, lake, cache, surroundings), lake


def steps_of(run: TrainingManifest, lake: Lake) -> list[dict[str, Any]]:
    """The steps of a run, as its log has them."""
    return [json.loads(line) for line in lake.get(f"{run.path}/log.jsonl").splitlines()]
