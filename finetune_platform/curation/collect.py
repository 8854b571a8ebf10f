"""The task's sources as one immutable folder of canonical rows, with what was refused beside it.

Reading one file belongs in `sources.py`; what makes a good dataset of these rows in `curate.py`.
"""

import tempfile
from collections import Counter
from pathlib import Path

from finetune_platform.curation.label_rows import read_labels
from finetune_platform.curation.parquet_rows import ParquetRows
from finetune_platform.curation.rejections import Rejected
from finetune_platform.curation.sources import SourceReader
from finetune_platform.curation.strata import name_strata
from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id
from finetune_platform.lake import Lake
from finetune_platform.locations import SourceFile, find_files
from finetune_platform.manifests import MANIFEST_NAME, FunnelStep, LabelsManifest, RawManifest
from finetune_platform.progress import Report, Ticker
from finetune_platform.rows import EXAMPLE_SCHEMA, REJECTED_SCHEMA
from finetune_platform.task import Source, Task

CURATION_VERSION = "1"
"""Raise it when the same sources would lead to other rows."""

_ROWS_BETWEEN_REPORTS = 1_000


def collect(
    task: Task, lake: Lake, cache_dir: Path, report: Report, labels: LabelsManifest | None = None
) -> RawManifest:
    """Reads every source of `task`, and its labels, and publishes `{task}/raw_examples/{id}/` in the lake.

    The id is a hash of all rows, refused ones included, so the same sources give the same folder and nothing is
    written twice. Memory holds a batch of rows, not a file.

    Args:
        task: Its `sources` and `curation` are used.
        lake: Where rows go, and what `lake:` sources read.
        cache_dir: Where packages are kept.
        report: Hears one line a file, and progress.
        labels: What experts and users decided, as it stands; None where there is nothing yet.

    Returns:
        The manifest; that of the earlier run where the rows are already there.

    Raises:
        BadInput: A source is missing, empty, of another format or of two; or too many rows are refused. Nothing has
            been written then.
    """
    found = [(source, file) for source in task.sources for file in _files(source, task, lake, cache_dir, report)]
    if not found and labels is None:
        raise BadInput(
            f"{task.path or task.name}: sources: none of the {len(task.sources)} sources has a file",
            "put rows into one of them: " + ", ".join(source.uri for source in task.sources),
        )
    with tempfile.TemporaryDirectory(prefix="raw_examples-") as temp:
        manifest = _read_into(Path(temp), task, found, lake, labels, report)
        (Path(temp) / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        lake.publish(Path(temp), manifest.path)
    return lake.manifest(RawManifest, manifest.path)


def _files(source: Source, task: Task, lake: Lake, cache_dir: Path, report: Report) -> list[SourceFile]:
    files = find_files(source, task.folder, lake, cache_dir, report)
    if not files:
        report(f"{source.uri}: nothing there, and it is optional")
    return files


def _read_into(
    folder: Path,
    task: Task,
    found: list[tuple[Source, SourceFile]],
    lake: Lake,
    labels: LabelsManifest | None,
    report: Report,
) -> RawManifest:
    """Writes both Parquet files into `folder`; the manifest of what they hold."""
    readers = []
    with (
        ParquetRows(folder / "examples.parquet", EXAMPLE_SCHEMA) as examples,
        ParquetRows(folder / "rejected.parquet", REJECTED_SCHEMA) as refused,
    ):
        for source, file in found:
            readers.append(_read_file(file, source, task, examples, refused, report))
        if labels is not None:
            for example in read_labels(lake, labels):
                examples.add(name_strata(example, task.curation.strata).record())
            report(f"{labels.artifact_id}: {labels.rows:,} labels read")
    _judge(task, readers)
    raw_id = content_id("raw", {"examples": examples.content_hash, "rejected": refused.content_hash})
    reasons = sum((reader.reasons for reader in readers), Counter())
    step = FunnelStep(
        step="parse", rows_in=examples.rows + refused.rows, rows_out=examples.rows, reasons=dict(reasons.most_common())
    )
    return RawManifest(
        artifact_id=raw_id,
        task=task.name,
        parents={} if labels is None else {"expert_labels": labels.artifact_id},
        code_version=CURATION_VERSION,
        rows=examples.rows,
        labels=0 if labels is None else labels.rows,
        sources=[reader.record for reader in readers],
        funnel=[step],
    )


def _read_file(
    file: SourceFile, source: Source, task: Task, examples: ParquetRows, refused: ParquetRows, report: Report
) -> SourceReader:
    reader = SourceReader(file, source, task.curation)
    ticker = Ticker(report, "reading", max(1, file.size // 1000), "kB")
    for count, row in enumerate(reader.read(), start=1):
        if isinstance(row, Rejected):
            refused.add(row._asdict())
        else:
            examples.add(name_strata(row, task.curation.strata).record())
        if count % _ROWS_BETWEEN_REPORTS == 0 and reader.bytes_read < file.size:
            ticker.at(reader.bytes_read // 1000, detail=file.uri)
    record = reader.record
    report(f"{file.uri}: {record.rows:,} rows read, {record.rejected:,} set aside")
    return reader


def _judge(task: Task, readers: list[SourceReader]) -> None:
    """Stops where so much is refused that the format, not the rows, must be wrong."""
    rows = sum(reader.record.rows for reader in readers)
    reasons: Counter[str] = sum((reader.reasons for reader in readers), Counter())
    total = rows + reasons.total()
    if reasons.total() > task.curation.max_rejected_share * total:
        lines = []
        for reason, count in reasons.most_common(3):
            first = next(reader.first[reason] for reader in readers if reason in reader.first)
            lines.append(f"{count:,} x {reason}, first {first.detail}")
        raise BadInput(
            f"{task.name}: {reasons.total():,} of {total:,} rows cannot be read; curation.max_rejected_share is "
            f"{task.curation.max_rejected_share:g}\n" + "\n".join(lines),
            "correct these rows, or raise curation.max_rejected_share in the task file",
        )
    if not rows:
        raise BadInput(
            f"{task.path or task.name}: sources: there is not one row to learn from",
            "put rows into one of them: " + ", ".join(source.uri for source in task.sources),
        )
