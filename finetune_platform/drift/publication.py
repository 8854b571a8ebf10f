"""A look's finding in the lake: `report.html`, `report.json` and the manifest."""

import tempfile
from pathlib import Path

from finetune_platform.drift.page import render_page
from finetune_platform.drift.report import DriftReport
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME
from finetune_platform.manifests_drift import DriftManifest

PAGE_NAME, DATA_NAME = "report.html", "report.json"


def publish_report(lake: Lake, report: DriftReport) -> None:
    """Writes `{task}/drift_reports/{id}/`, once."""
    with tempfile.TemporaryDirectory(prefix="drift_report-") as temp:
        folder = Path(temp)
        (folder / PAGE_NAME).write_text(render_page(report), encoding="utf-8")
        (folder / DATA_NAME).write_text(report.model_dump_json(indent=1), encoding="utf-8")
        (folder / MANIFEST_NAME).write_bytes(report.found.to_bytes())
        lake.publish(folder, report.found.path)


def read_report(lake: Lake, found: DriftManifest) -> DriftReport | None:
    """The report of a look; None for one of a version that wrote the manifest alone."""
    try:
        return DriftReport.model_validate_json(lake.get(f"{found.path}/{DATA_NAME}"))
    except FileNotFoundError:
        return None
