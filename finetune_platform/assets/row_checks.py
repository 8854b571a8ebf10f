"""Great Expectations suites as asset checks, one an expectation: declared without the library, run with it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec, AssetKey, Failure, MetadataValue

from finetune_platform.assets.presentation import link
from finetune_platform.curation.expectations import CheckOutcome, SuiteName, expectations, validate
from finetune_platform.lake import Lake
from finetune_platform.manifests import Manifest
from finetune_platform.task import Task

if TYPE_CHECKING:
    import pandas as pd


def check_specs(suite: SuiteName, task: Task, key: AssetKey) -> list[AssetCheckSpec]:
    """One asset check an expectation of the suite."""
    return [
        AssetCheckSpec(e.name, asset=key, description=e.description, blocking=e.blocking)
        for e in expectations(suite, task)
    ]


def checked(
    frame: "pd.DataFrame", suite: SuiteName, task: Task, key: AssetKey, manifest: Manifest, lake: Lake
) -> Iterator[AssetCheckResult]:
    """Validates rows, publishes the Data Docs, and yields a result an expectation.

    Raises:
        Failure: After all results, where a blocking expectation failed: such rows never become the asset.
    """
    from finetune_platform.curation.data_docs import publish_docs

    with tempfile.TemporaryDirectory() as folder:
        outcomes = validate(frame, suite, task, Path(folder))
        publish_docs(lake, Path(folder), docs_path(task, manifest))
    for outcome in outcomes:
        yield AssetCheckResult(
            passed=outcome.passed,
            check_name=outcome.name,
            asset_key=key,
            severity=AssetCheckSeverity.ERROR if outcome.blocking else AssetCheckSeverity.WARN,
            description=outcome.description,
            metadata={
                "observed": MetadataValue.json(outcome.observed),
                "data docs": link(lake, f"{docs_path(task, manifest)}/index.html"),
            },
        )
    _stop_at([o for o in outcomes if o.blocking and not o.passed], manifest)


def docs_path(task: Task, manifest: Manifest) -> str:
    """Folder of an artifact's Data Docs inside the lake."""
    return f"{task.name}/data_docs/{manifest.artifact_id}"


def _stop_at(failed: list[CheckOutcome], manifest: Manifest) -> None:
    if failed:
        lines = "\n".join(f"{o.name}: {o.description} Observed: {o.observed}" for o in failed)
        raise Failure(
            description=f"{manifest.artifact_id}: {len(failed)} blocking checks failed\n{lines}",
            allow_retries=False,
        )
