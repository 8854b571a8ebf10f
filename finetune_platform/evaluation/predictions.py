"""Answers of the arms: generated once, kept where a killed or a later evaluation finds them.

An arm's answers are kept under the work folder as soon as they are complete. Those of the base model do not depend on
any adapter and are kept in the lake as well, for the next adapter's evaluation.
"""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.evaluation.arms import Arm
from finetune_platform.identity import content_id
from finetune_platform.inference.engine import Completion
from finetune_platform.lake import Lake
from finetune_platform.progress import Report
from finetune_platform.rows import Example
from finetune_platform.storage_errors import disk_failures

ANSWER_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("answer", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("latency_ms", pa.float64()),
        ("finish_reason", pa.string()),
    ]
)


class Answerer(Protocol):
    """What an arm needs of an engine (`inference.engine.Engine`)."""

    device: str

    def generate(
        self,
        conversations: Sequence[Sequence[dict[str, Any]]],
        *,
        adapter: Path | None,
        max_new_tokens: int,
        batch_size: int,
        report: Report,
        stage: str,
    ) -> list[Completion]: ...


@dataclass(frozen=True)
class Measurement:
    """How a set of answers was made: `seconds` for all of them together, on `device`, at `measured_at` (UTC)."""

    seconds: float
    batch_size: int
    device: str
    measured_at: str


@dataclass(frozen=True)
class ArmAnswers:
    """One arm's answers to one benchmark, in the order of its rows.

    Attributes:
        table: Columns of `ANSWER_SCHEMA`.
        measurement: Of the generation; None for an arm without a model.
        reused: They were made for an earlier evaluation.
    """

    table: pa.Table
    measurement: Measurement | None
    reused: bool = False

    @property
    def texts(self) -> list[str]:
        return [str(text) for text in self.table.column("answer").to_pylist()]


@dataclass(frozen=True)
class Generation:
    """What an arm's answers depend on, besides its conversations.

    Attributes:
        engine: Runs the base model.
        base_model: Identifies weights and chat template.
        max_new_tokens: Longest answer.
        batch_size: Requests in flight.
        lake: Keeps the base model's answers.
        folder: Folder in the lake for them.
        work_dir: Local folder of this evaluation.
        report: Told of progress.
    """

    engine: Answerer
    base_model: str
    max_new_tokens: int
    batch_size: int
    lake: Lake
    folder: str
    work_dir: Path
    report: Report

    def answers(self, arm: Arm, rows: Sequence[Example], benchmark: str) -> ArmAnswers:
        """The arm's answers: found, or generated and kept."""
        if arm.constant is not None:
            return ArmAnswers(_table(rows, [_constant(arm.constant)] * len(rows), None), None)
        conversations = [arm.conversation(row) for row in rows]
        key = self._key(arm, conversations)
        local = self.work_dir / f"{benchmark}-{arm.name}-{key}.parquet"
        shared = f"{self.folder}/{key}.parquet" if arm.adapter is None else None
        if local.is_file():
            return _read(local.read_bytes(), reused=False)
        if shared is not None and self.lake.exists(shared):
            self.report(f"evaluation: {arm.name} answers of an earlier evaluation are in the lake")
            return _read(self.lake.get(shared), reused=True)
        data = self._generate(arm, rows, conversations, benchmark)
        _write_whole(local, data)
        if shared is not None:
            self.lake.put_new(shared, data)
        return _read(data, reused=False)

    def _generate(
        self, arm: Arm, rows: Sequence[Example], conversations: Sequence[list[dict[str, Any]]], benchmark: str
    ) -> bytes:
        started = time.perf_counter()
        completions = self.engine.generate(
            conversations,
            adapter=arm.adapter,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            report=self.report,
            stage=f"evaluating {arm.name} on {benchmark}",
        )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        measurement = Measurement(time.perf_counter() - started, self.batch_size, self.engine.device, now)
        stream = io.BytesIO()
        pq.write_table(_table(rows, completions, measurement), stream)
        return stream.getvalue()

    def _key(self, arm: Arm, conversations: Sequence[list[dict[str, Any]]]) -> str:
        content = {
            "conversations": list(conversations),
            "adapter": arm.adapter_id,
            "base_model": self.base_model,
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
        }
        return content_id("pr", content)


def _constant(text: str) -> Completion:
    return Completion(text=text, prompt_tokens=0, completion_tokens=0, latency_ms=0.0, finish_reason="stop")


def _table(rows: Sequence[Example], completions: Sequence[Completion], measurement: Measurement | None) -> pa.Table:
    records = [
        {
            "example_id": row.example_id,
            "answer": c.text,
            "prompt_tokens": c.prompt_tokens,
            "completion_tokens": c.completion_tokens,
            "latency_ms": c.latency_ms if measurement else None,
            "finish_reason": c.finish_reason,
        }
        for row, c in zip(rows, completions, strict=True)
    ]
    metadata = {"measurement": json.dumps(asdict(measurement))} if measurement else None
    return pa.Table.from_pylist(records, schema=ANSWER_SCHEMA.with_metadata(metadata))


def _read(data: bytes, reused: bool) -> ArmAnswers:
    table = pq.read_table(io.BytesIO(data))
    measurement = Measurement(**json.loads(table.schema.metadata[b"measurement"]))
    return ArmAnswers(table, measurement, reused)


def _write_whole(path: Path, data: bytes) -> None:
    with disk_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.replace(path)
