"""`interactions`: the traffic that gateways logged. Gateways write it; Dagster observes it and keeps it in order."""

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetObservation,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    BetaWarning,
    DataVersion,
    DefaultScheduleStatus,
    JobDefinition,
    MetadataValue,
    ObserveResult,
    OpExecutionContext,
    ResourceParam,
    ScheduleDefinition,
    define_asset_job,
    job,
    multi_observable_source_asset,
    op,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from finetune_platform.assets.presentation import link
from finetune_platform.lake import Lake
from finetune_platform.resources.failures import user_failures
from finetune_platform.task import Task

if TYPE_CHECKING:
    from finetune_platform.serving.retention import TableFigures

FRESH = "fresh"
FRESH_FOR = timedelta(hours=24)
"""A log whose newest row is older has lost its gateway, or the gateway its traffic."""


def interactions_asset(task: Task) -> AssetsDefinition:
    """The asset for one task: external, observable, with a freshness check."""
    key = _key(task)

    with warnings.catch_warnings():
        # Beta in Dagster 1.13, to which the dependencies keep.
        warnings.simplefilter("ignore", BetaWarning)

        @multi_observable_source_asset(
            name=f"{task.name}__interactions",
            specs=[
                AssetSpec(
                    key,
                    group_name="monitor",
                    kinds={"deltalake"},
                    owners=task.owners,
                    description="What gateways answered and what users said of it: a sample, personal data replaced.",
                )
            ],
            check_specs=[
                AssetCheckSpec(FRESH, asset=key, description=f"The newest row is younger than {_words(FRESH_FOR)}.")
            ],
        )
        def observe(lake: ResourceParam[Lake]) -> Iterator[ObserveResult]:
            figures, feedback = _figures(task, lake)
            yield ObserveResult(
                asset_key=key,
                metadata=_metadata(task, lake, figures, feedback),
                check_results=[_freshness(key, figures)],
                data_version=DataVersion(f"{figures.rows} rows to {figures.newest}" if figures else "nothing yet"),
            )

    return observe


def interactions_observation(task: Task) -> UnresolvedAssetJobDefinition:
    """`{task}_interactions_observation`: looks at the log."""
    return define_asset_job(
        name=f"{task.name}_interactions_observation",
        selection=AssetSelection.assets(_key(task)),
        description=f"Rows, size and freshness of the interactions log of {task.name}.",
    )


def interactions_maintenance(task: Task) -> JobDefinition:
    """`{task}_interactions_maintenance`: deletes what is older than the task's `retention_days`, compacts the rest."""

    @op(name=f"{task.name}_interactions_upkeep")
    def keep_up(context: OpExecutionContext, lake: ResourceParam[Lake]) -> None:
        from finetune_platform.serving.interactions import feedback_path, interactions_path
        from finetune_platform.serving.retention import upkeep

        done: dict[str, Any] = {}
        for name, path in (("", interactions_path(task.name)), ("feedback ", feedback_path(task.name))):
            with user_failures():
                kept = upkeep(lake, path, task.serving.retention_days)
            if kept is None:
                context.log.info(f"{lake.url_of(path)}: nothing was logged yet")
                continue
            done |= {
                f"{name}rows deleted": kept.rows_deleted,
                f"{name}files before": kept.before.files,
                f"{name}files after": kept.after.files,
                f"{name}days compacted": kept.days_compacted,
                f"{name}files removed": kept.files_removed,
            }
        figures, feedback = _figures(task, lake)
        context.add_output_metadata(done)
        context.log_event(
            AssetObservation(asset_key=_key(task), metadata=_metadata(task, lake, figures, feedback) | done)
        )

    @job(
        name=f"{task.name}_interactions_maintenance",
        description=f"Retention ({task.serving.retention_days} days) and compaction of {task.name}'s log.",
    )
    def maintenance() -> None:
        keep_up()

    return maintenance


def interactions_schedules(
    task: Task, observation: UnresolvedAssetJobDefinition, maintenance: JobDefinition
) -> list[ScheduleDefinition]:
    """An observation each hour, maintenance each night (UTC, as the log's days)."""
    running = DefaultScheduleStatus.RUNNING
    return [
        ScheduleDefinition(job=observation, cron_schedule="5 * * * *", default_status=running),
        ScheduleDefinition(job=maintenance, cron_schedule="35 1 * * *", default_status=running),
    ]


def _key(task: Task) -> AssetKey:
    return AssetKey([task.name, "interactions"])


def _figures(task: Task, lake: Lake) -> "tuple[TableFigures | None, TableFigures | None]":
    """Of the interactions and of the feedback."""
    from finetune_platform.serving.interactions import feedback_path, interactions_path
    from finetune_platform.serving.retention import table_figures

    with user_failures():
        return table_figures(lake, interactions_path(task.name)), table_figures(lake, feedback_path(task.name))


def _metadata(
    task: Task, lake: Lake, figures: "TableFigures | None", feedback: "TableFigures | None"
) -> dict[str, Any]:
    from finetune_platform.serving.interactions import interactions_path

    shown: dict[str, Any] = {
        "dagster/row_count": figures.rows if figures else 0,
        "feedback rows": feedback.rows if feedback else 0,
        "folder": link(lake, interactions_path(task.name)),
        "logged share": task.serving.log_share,
        "retention days": task.serving.retention_days,
    }
    if figures is None or figures.newest is None or figures.oldest is None:
        return shown
    return shown | {
        "dagster/last_updated_timestamp": MetadataValue.timestamp(figures.newest),
        "oldest row": MetadataValue.timestamp(figures.oldest),
        "size (bytes)": figures.size_bytes,
        "files": figures.files,
        "table version": figures.version,
    }


def _freshness(key: AssetKey, figures: "TableFigures | None") -> AssetCheckResult:
    newest = figures.newest if figures else None
    age = datetime.now(UTC) - newest if newest else None
    return AssetCheckResult(
        check_name=FRESH,
        asset_key=key,
        passed=age is None or age < FRESH_FOR,
        severity=AssetCheckSeverity.WARN,
        description=f"The newest row is {_words(age)} old." if age else "Nothing was logged yet.",
        metadata={"newest row": MetadataValue.timestamp(newest)} if newest else {},
    )


def _words(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"
