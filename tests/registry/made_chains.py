"""A whole chain of artifacts in a lake, made by hand in a second: what the registry reads, without training."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from finetune_platform.database import Database
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.manifests import (
    DatasetManifest,
    EvaluationManifest,
    GateResult,
    Manifest,
    RawManifest,
    SourceRecord,
    SplitRecord,
)
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.registry.making import note_making
from finetune_platform.registry.register import register
from finetune_platform.rows import EXAMPLE_SCHEMA, REJECTED_SCHEMA, Example, Message
from finetune_platform.task import Task

SOURCE = "data/cities.jsonl"
SYSTEM_PROMPT = "Name the city."


def example(number: int, answer: str = "Rome") -> Example:
    messages = [Message(role="user", content=f"Sentence {number}"), Message(role="assistant", content=answer)]
    return Example(messages=messages, source_uri=SOURCE, source_row=number, group_id=f"g{number}")


def parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


def gate(verdict: str = "pass", tier: str = "hard", name: str = "exact_match vs prompted") -> GateResult:
    return GateResult(
        name=name,
        metric="exact_match",
        slice="all",
        tier=tier,
        verdict=verdict,
        versus="prompted",
        limit=0.0,
        observed=0.3,
        lower=0.2,
        upper=0.4,
        n=100,
        minimum_detectable_effect=0.1,
        reason=f"observed +0.300 | the gate is a {verdict}",
    )


@dataclass
class Chain:
    """The artifacts of one run of a task's chain, stored and recorded, up to the evaluation."""

    task: Task
    raw: RawManifest
    dataset: DatasetManifest
    training: TrainingManifest
    evaluation: EvaluationManifest
    base_model: ResolvedModel
    lake: Lake
    database: Database

    def register(self, tracking_uri: str, **changed: Any) -> Any:
        values = {
            "task": self.task,
            "evaluation": self.evaluation,
            "training": self.training,
            "dataset": self.dataset,
            "base_model": self.base_model,
            "lake": self.lake,
            "database": self.database,
            "tracking_uri": tracking_uri,
            "dagster_run_id": "run-1",
            "report": lambda line: None,
        }
        adapter = register(**{**values, **changed})
        self.database.record_artifact(adapter, "registered_adapter", self.lake.url_of(adapter.path), "run-1")
        return adapter


class ChainFactory:
    """Makes chains of the task `cities` in one lake and database; `seed` makes another adapter of the same data."""

    def __init__(self, lake: Lake, database: Database, base_model: ResolvedModel) -> None:
        self.lake, self.database, self.base_model = lake, database, base_model

    def __call__(self, seed: int = 0, gates: list[GateResult] | None = None, answer: str = "Rome") -> Chain:
        task = make_task()
        raw = self._raw(answer)
        dataset = self._dataset(raw, answer)
        training = self._training(dataset, seed)
        evaluation = self._evaluation(training, dataset, seed, gates or [gate()])
        return Chain(task, raw, dataset, training, evaluation, self.base_model, self.lake, self.database)

    def store(self, asset: str, manifest: Manifest, files: dict[str, bytes], *made_from: Manifest) -> None:
        for name, data in files.items():
            self.lake.put(f"{manifest.path}/{name}", data)
        self.lake.put(f"{manifest.path}/manifest.json", manifest.to_bytes())
        note_making(self.database, make_task(), asset, manifest, "1", made_from)
        self.database.record_artifact(manifest, asset, self.lake.url_of(manifest.path), "run-1")

    def _raw(self, answer: str) -> RawManifest:
        rows = [example(n, answer).record() for n in range(1, 8)]
        # Line 7 says the same as line 1: curation drops it.
        rows[6] = {**example(1, answer).record(), "source_row": 7}
        refused = {
            "source_uri": SOURCE,
            "source_row": 8,
            "stage": "parse",
            "reason": "invalid_json",
            "detail": f"{SOURCE}:8: not JSON",
            "content": "{",
        }
        source = SourceRecord(uri=SOURCE, sha256="a" * 64, format="messages", rows=7, rejected=1)
        manifest = RawManifest(
            artifact_id=f"raw-{answer.lower()}", task="cities", code_version="1", rows=7, sources=[source], funnel=[]
        )
        files = {
            "examples.parquet": parquet(rows, EXAMPLE_SCHEMA),
            "rejected.parquet": parquet([refused], REJECTED_SCHEMA),
        }
        self.store("raw_examples", manifest, files)
        return manifest

    def _dataset(self, raw: RawManifest, answer: str) -> DatasetManifest:
        splits = {"train": range(1, 5), "validation": range(5, 6), "test": range(6, 7)}
        duplicate = {
            "source_uri": SOURCE,
            "source_row": 7,
            "stage": "exact_duplicates",
            "reason": "exact_duplicate",
            "detail": f"{SOURCE}:7: the same as {SOURCE}:1",
            "content": "",
        }
        manifest = DatasetManifest(
            artifact_id=f"ds-{answer.lower()}",
            task="cities",
            parents={"raw_examples": raw.artifact_id},
            code_version="1",
            splits={s: SplitRecord(rows=len(n), groups=len(n), sha256="b" * 64) for s, n in splits.items()},
            rejected=1,
            funnel=[],
            strata={},
            tokens={},
            base_model="tiny",
        )
        files = {
            f"{split}.parquet": parquet([example(n, answer).record() for n in numbers], EXAMPLE_SCHEMA)
            for split, numbers in splits.items()
        }
        files["rejected.parquet"] = parquet([duplicate], REJECTED_SCHEMA)
        self.store("curated_dataset", manifest, files, raw)
        return manifest

    def _training(self, dataset: DatasetManifest, seed: int) -> TrainingManifest:
        manifest = TrainingManifest(
            artifact_id=f"tr-{dataset.artifact_id[3:]}{seed}",
            task="cities",
            parents={"curated_dataset": dataset.artifact_id},
            code_version="1",
            base_model=self.base_model.name,
            base_model_revision=self.base_model.revision,
            system_prompt=SYSTEM_PROMPT,
            chat_template_sha256=self.base_model.chat_template_sha256,
            stages=[stage.model_dump(mode="json") for stage in make_task().training.stages],
            steps=10,
            train_rows=4,
            supervised_tokens=40,
            trainable_parameters=128,
            first_loss=2.0,
            final_loss=0.5,
            validation_loss=0.6,
            train_seconds=3.0,
            rows_per_second=12.5,
            preflight={},
            golden=[],
            versions={},
            device="cpu",
        )
        self.store("trained_adapter", manifest, adapter_files(seed), dataset)
        return manifest

    def _evaluation(
        self, training: TrainingManifest, dataset: DatasetManifest, seed: int, gates: list[GateResult]
    ) -> EvaluationManifest:
        value = {"value": 0.8, "lower": 0.7, "upper": 0.9}
        manifest = EvaluationManifest(
            artifact_id=f"ev-{training.artifact_id[3:]}",
            task="cities",
            parents={"trained_adapter": training.artifact_id, "curated_dataset": dataset.artifact_id},
            code_version="1",
            verdict="pass" if all(g.verdict == "pass" for g in gates) else "fail",
            headline="exact match 0.80, better than the base model's 0.50",
            gates=gates,
            summary={"candidate": {"exact_match": value}, "prompted": {"exact_match": {**value, "value": 0.5}}},
            generation_seconds=1.0,
        )
        self.store("evaluation_report", manifest, {"report.html": b"<html></html>"}, training, dataset)
        return manifest


def make_task(**changed: Any) -> Task:
    values = {
        "name": "cities",
        "description": "Names the city of a sentence.",
        "owners": ["team:example"],
        "base_model": {"uri": "./tiny", "name": "tiny"},
        "system_prompt": SYSTEM_PROMPT,
        "baseline_prompt": "Which city is named in this sentence?",
        "sources": [{"uri": SOURCE, "format": "messages"}],
        "evaluation": {"gates": [{"metric": "exact_match", "max_regression_vs": "prompted"}]},
    }
    return Task.model_validate({**values, **changed})


def adapter_files(seed: int) -> dict[str, bytes]:
    """What PEFT leaves, in its names: a LoRA of the tiny model's first query projection."""
    width, r = 64, 4
    random = np.random.default_rng(seed)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {
        key.format("A"): random.normal(size=(r, width)).astype(np.float32),
        key.format("B"): random.normal(size=(width, r)).astype(np.float32),
    }
    config = {
        "base_model_name_or_path": "/home/somebody/.cache/tiny",
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": r,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "inference_mode": False,
    }
    return {
        "adapter/adapter_model.safetensors": save(tensors),
        "adapter/adapter_config.json": json.dumps(config).encode(),
        "adapter/README.md": b"PEFT's own card",
        "checkpoints/step-10/optimizer.pt": b"a pickle",
    }
