"""A look's finding in the lake."""

import tempfile
from pathlib import Path

from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DriftManifest


def publish_report(lake: Lake, found: DriftManifest) -> None:
    """Writes `{task}/drift_reports/{id}/`, once."""
    with tempfile.TemporaryDirectory(prefix="drift_report-") as temp:
        folder = Path(temp)
        (folder / MANIFEST_NAME).write_bytes(found.to_bytes())
        lake.publish(folder, found.path)
