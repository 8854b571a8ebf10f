"""The files of a published evaluation: `report.html`, `report.json`, `predictions.parquet`, `manifest.json`.

What stands in them is computed elsewhere; this file writes them to a folder, publishes that folder, and reads back.
"""

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from finetune_platform.errors import BadInput
from finetune_platform.evaluation.arms import Arm
from finetune_platform.evaluation.evidence import Evidence
from finetune_platform.evaluation.predictions import ArmAnswers
from finetune_platform.evaluation.report import render_report
from finetune_platform.evaluation.scores import Scores
from finetune_platform.identity import canonical_json
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, EvaluationManifest
from finetune_platform.rows import Example
from finetune_platform.storage_errors import disk_failures

PAGE_NAME, DATA_NAME = "report.html", "report.json"


def prediction_table(
    benchmark: str, rows: Sequence[Example], arms: Sequence[Arm], answers: Mapping[str, ArmAnswers], scores: Scores
) -> pa.Table:
    """One row an arm and example, with what was sent, what came back and its scores.

    Scores stand in one column a metric; null where the row adds nothing to the metric.
    """
    tables = []
    for arm in arms:
        fixed: dict[str, list[object]] = {
            "benchmark": [benchmark] * len(rows),
            "arm": [arm.name] * len(rows),
            "group_id": [row.group_id for row in rows],
            "task_type": [row.task_type for row in rows],
            "difficulty": [row.difficulty for row in rows],
            "label_source": [row.label_source for row in rows],
            "prompt": [None if arm.constant is not None else canonical_json(arm.conversation(row)) for row in rows],
            "gold": [row.answer for row in rows],
        }
        table = answers[arm.name].table.replace_schema_metadata(None)
        for name, column in fixed.items():
            table = table.append_column(name, pa.array(column, pa.string()))
        counting = scores.denominators[:, scores.arms.index(arm.name)] > 0
        for place, metric in enumerate(scores.metrics):
            column = pa.array(scores.row_scores(arm.name, metric), mask=~counting[:, place])
            table = table.append_column(f"score_{metric}", column)
        tables.append(table)
    return pa.concat_tables(tables)


def publish(
    evidence: Evidence, predictions: pa.Table, manifest: EvaluationManifest, lake: Lake, work_dir: Path
) -> None:
    """Writes the evaluation's files and makes them appear in the lake at once."""
    with disk_failures(work_dir):
        work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work_dir, prefix="report-") as temporary:
            folder = Path(temporary)
            (folder / PAGE_NAME).write_text(render_report(evidence), encoding="utf-8")
            (folder / DATA_NAME).write_text(evidence.model_dump_json(indent=1), encoding="utf-8")
            stream = io.BytesIO()
            pq.write_table(predictions, stream, compression="zstd")
            (folder / "predictions.parquet").write_bytes(stream.getvalue())
            (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
            lake.publish(folder, manifest.path)


def read_evidence(lake: Lake, task: str, evaluation_id: str) -> Evidence:
    """What a published report tells.

    Raises:
        BadInput: It is not there, or was written by another version.
    """
    place = f"{EvaluationManifest.path_of(task, evaluation_id)}/{DATA_NAME}"
    mend = f"make it again with `finetune run {task} --from evaluation_report`"
    try:
        return Evidence.model_validate_json(lake.get(place))
    except FileNotFoundError as error:
        raise BadInput(f"{lake.url_of(place)}: it is not there", mend) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{lake.url_of(place)}: {field}: {first['msg']}", mend) from error
