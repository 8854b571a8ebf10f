"""A published dataset of short questions, in a lake of its own, for tests of the trainer."""

import io
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ticket_rows import TASK, examples

from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DatasetManifest, SplitRecord
from finetune_platform.rows import EXAMPLE_SCHEMA, SPLITS, Example, Split
from finetune_platform.task import Task
from finetune_platform.task_file import load_task


class Publish(Protocol):
    def __call__(self, lake: Lake, rows: Sequence[Example] | None = None, dataset_id: str = ...) -> DatasetManifest: ...


@pytest.fixture
def publish_dataset() -> Publish:
    """Publishes rows as a dataset: four fifths to train on, the rest for validation."""

    def publish(
        lake: Lake, rows: Sequence[Example] | None = None, dataset_id: str = "ds-000000000001"
    ) -> DatasetManifest:
        rows = examples(40) if rows is None else rows
        cut = max(1, len(rows) * 4 // 5)
        splits: dict[Split, Sequence[Example]] = {"train": rows[:cut], "validation": rows[cut:], "test": []}
        manifest = DatasetManifest(
            artifact_id=dataset_id,
            task=TASK,
            code_version="1",
            splits={s: SplitRecord(rows=len(splits[s]), groups=len(splits[s]), sha256="0" * 64) for s in SPLITS},
            rejected=0,
            funnel=[],
            strata={},
            tokens={},
            base_model="tiny",
        )
        for split, members in splits.items():
            data = io.BytesIO()
            pq.write_table(pa.Table.from_pylist([e.record() for e in members], schema=EXAMPLE_SCHEMA), data)
            lake.put(f"{manifest.path}/{split}.parquet", data.getvalue())
        lake.put(f"{manifest.path}/{MANIFEST_NAME}", manifest.to_bytes())
        return manifest

    return publish


@pytest.fixture
def make_task(task_file, tiny_model):
    """The small task on the tiny model; keywords change its training stage."""

    def make(**stage: object) -> Task:
        options = {
            "peft": {"r": 4, "lora_alpha": 8},
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.01,
            "save_steps": 3,
            "eval_steps": 5,
            "max_length": 256,
            "dtype": "float32",
        }
        path = task_file(base_model={"uri": str(tiny_model)}, training={"stages": [{**options, **stage}]})
        return load_task(path)

    return make
