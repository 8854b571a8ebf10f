"""What experts decided, on its way into a dataset: it replaces what it corrects, and keeps its place."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.curation.collect import collect
from finetune_platform.curation.curate import curate
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, LabelsManifest
from finetune_platform.rows import LABELS_NAME
from finetune_platform.task_file import load_task

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_label(number: int, question: str, answer: str, label_from: str = "expert") -> dict[str, Any]:
    return {
        "label_id": f"lb-{number}",
        "label_from": label_from,
        "batch_id": "rb-1" if label_from == "expert" else "production",
        "number": number,
        "messages": json.dumps([{"role": "user", "content": question}]),
        "answer": answer,
    }


def publish(lake: Lake, folder: Path, labels: list[dict[str, Any]]) -> LabelsManifest:
    manifest = LabelsManifest(
        artifact_id="ls-1", task="ticket_topics", code_version="1", rows=len(labels), by_source={}, replaced=0,
        distrusted=0, batches=["rb-1"], alpha=None, alpha_lower=None, alpha_upper=None, hours=0.0, cost=0.0,
    )  # fmt: skip
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(labels), folder / LABELS_NAME)
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    lake.publish(folder, manifest.path)
    return manifest


def test_a_label_replaces_the_rows_of_its_prompt_and_keeps_its_place(
    task_file: Any, local_lake: Lake, tmp_path: Path
) -> None:
    task = load_task(task_file())
    old = "My card was declined at Alma."
    labels = publish(
        local_lake,
        tmp_path / "labels",
        [a_label(7, old, "shop"), a_label(8, "A new thing?", "other"), a_label(0, "A word?", "card", "correction")],
    )
    raw = collect(task, local_lake, tmp_path / "cache", print, labels)
    assert raw.parents == {"expert_labels": "ls-1"} and raw.labels == 3
    dataset = curate(task, raw, local_lake, lambda chats: [len(chat) for chat in chats], "tiny", print)
    rows = local_lake.dataframe(f"{dataset.path}/*.parquet").to_pylist()
    kept = {(row["source_uri"], row["source_row"]): row for row in rows if row.get("answer") is not None}
    assert kept["labels/rb-1", 7]["answer"] == "shop" and kept["labels/rb-1", 7]["label_source"] == "expert"
    assert kept["labels/lb-0", 1]["label_source"] == "production"
    assert [r["answer"] for r in kept.values() if json.loads(r["messages"])[0]["content"] == old] == ["shop"]
    refused = local_lake.dataframe(f"{dataset.path}/rejected.parquet").to_pylist()
    (replaced,) = [row for row in refused if row["reason"] == "superseded"]
    assert replaced["detail"].endswith("a label replaces it: labels/rb-1:7")
