"""Data, training run and champion of a small task in a lake, and an engine that replays recorded answers.

Fixtures belong in conftest.py.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.inference.engine import Completion
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest, Manifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import Report
from finetune_platform.rows import EXAMPLE_SCHEMA, Example, Message

BASE = {"base_model": "tiny", "base_model_revision": "r1", "chat_template_sha256": "c" * 64}
PEOPLE = ("Ada", "Bo", "Cy", "Dee", "Eli")

Answer = Callable[[str, Path | None], str]


def gold_of(number: int) -> str:
    """Every other row has no entities; the others have one to three."""
    if number % 2:
        return "none"
    return "[" + ", ".join(f"{PEOPLE[(number + i) % 5]} - PERSON" for i in range(1 + number // 2 % 3)) + "]"


def make_rows(first: int, count: int) -> list[Example]:
    return [
        Example(
            messages=[
                Message(role="user", content=f"Sentence {n}."),
                Message(role="assistant", content=gold_of(n)),
            ],
            source_uri="rows.jsonl",
            source_row=n,
            task_type="empty" if n % 2 else "filled",
            difficulty="short",
            group_id=f"g{n}",
        )
        for n in range(first, first + count)
    ]


def number_in(text: str) -> int:
    return int(text.removeprefix("Sentence ").removesuffix("."))


class RecordedEngine:
    """Replays answers by question and adapter, and remembers what it was asked."""

    device = "recorded"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.stages: list[str] = []
        self.conversations: dict[str, list[Sequence[dict[str, Any]]]] = {}

    def generate(
        self,
        conversations: Sequence[Sequence[dict[str, Any]]],
        *,
        adapter: Path | None,
        max_new_tokens: int,
        batch_size: int,
        report: Report,
        stage: str,
    ) -> list[Completion]:
        self.stages.append(stage)
        self.conversations[stage] = list(conversations)
        time.sleep(0.01)
        texts = [self.answer(str(c[-1]["content"]), adapter) for c in conversations]
        return [
            Completion(text, sum(len(m["content"]) for m in c), len(text), 10.0 + i, "stop")
            for i, (text, c) in enumerate(zip(texts, conversations, strict=True))
        ]


def good_adapter(question: str, adapter: Path | None) -> str:
    """Any adapter is right nine times of ten, the base model says nothing usable."""
    number = number_in(question)
    if adapter is None:
        return "I cannot tell <script>alert(1)</script>"
    return gold_of(number) if number % 10 else "[Zed - PERSON]"


class Chain:
    """Everything upstream of an evaluation, published in a lake."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake, self.folder = lake, folder
        self.train, self.test = make_rows(0, 60), make_rows(100, 120)
        self.dataset = self.publish_dataset("ds-1", self.train, self.test)

    def publish_dataset(self, artifact_id: str, train: list[Example], test: list[Example]) -> DatasetManifest:
        manifest = DatasetManifest(
            artifact_id=artifact_id,
            task="people",
            code_version="1",
            splits={},
            rejected=0,
            funnel=[],
            strata={},
            tokens={},
            base_model="tiny",
        )
        local = self._published_from(artifact_id)
        for split, rows in (("train", train), ("test", test)):
            table = pa.Table.from_pylist([row.record() for row in rows], schema=EXAMPLE_SCHEMA)
            pq.write_table(table, local / f"{split}.parquet")
        return self._publish(manifest, local)

    def training(self, artifact_id: str = "tr-1", dataset: str = "ds-1", **changes: Any) -> TrainingManifest:
        fields: dict[str, Any] = {
            "artifact_id": artifact_id,
            "task": "people",
            "parents": {"curated_dataset": dataset},
            "code_version": "1",
            "system_prompt": "List.",
            "stages": [],
            "steps": 1,
            "train_rows": 60,
            "supervised_tokens": 1,
            "trainable_parameters": 1,
            "first_loss": 2.0,
            "final_loss": 1.0,
            "validation_loss": None,
            "train_seconds": 1.0,
            "rows_per_second": 1.0,
            "preflight": {},
            "golden": [],
            "versions": {},
            "device": "cpu",
        }
        local = self._published_from(artifact_id)
        (local / "adapter").mkdir()
        (local / "adapter" / "adapter_config.json").write_text("{}")
        return self._publish(TrainingManifest(**{**fields, **BASE, **changes}), local)

    def champion(self, trained_adapter: str = "tr-0", dataset: str = "ds-1", **changes: Any) -> AdapterManifest:
        fields: dict[str, Any] = {
            "artifact_id": f"ad-of-{trained_adapter}",
            "task": "people",
            "code_version": "1",
            "files": {},
            "parents": {"trained_adapter": trained_adapter, "curated_dataset": dataset},
            "system_prompt": "List.",
            "summary": {},
            "mlflow_model": "people",
            "golden": [],
        }
        local = self._published_from(fields["artifact_id"])
        (local / "adapter_config.json").write_text("{}")
        return self._publish(AdapterManifest(**{**fields, **BASE, **changes}), local)

    def _published_from(self, artifact_id: str) -> Path:
        local = self.folder / artifact_id
        local.mkdir(parents=True)
        return local

    def _publish(self, manifest: Any, local: Path) -> Any:
        assert isinstance(manifest, Manifest)
        (local / "manifest.json").write_bytes(manifest.to_bytes())
        self.lake.publish(local, manifest.path)
        return manifest
