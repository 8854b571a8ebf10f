"""`drift_report`: what each look at the traffic finds, beside a frozen reference; and when it looks."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    DataVersion,
    DefaultScheduleStatus,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    ScheduleDefinition,
    asset,
    define_asset_job,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from finetune_platform.announcements import Event, announce, dagster_page
from finetune_platform.assets.presentation import link, provenance, table
from finetune_platform.assets.production_quality import production_of
from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests_drift import DriftManifest, PerformanceRecord
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.task import Task

if TYPE_CHECKING:
    from finetune_platform.drift.monitor import Traffic

ASSET = "drift_report"
CODE_VERSION = "3"


def drift_report(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, ASSET])

    @asset(
        key=key,
        deps=[AssetKey([task.name, "interactions"])],
        group_name="monitor",
        kinds={"python"},
        owners=task.owners,
        description="Evidence that traffic has changed since the champion took over, by channel; an alarm or not.",
        code_version=CODE_VERSION,
    )
    def build(
        context: AssetExecutionContext,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
        workbench: Workbench,
    ) -> MaterializeResult[DriftManifest]:
        from finetune_platform.drift.monitor import look
        from finetune_platform.drift.publication import PAGE_NAME, publish_report
        from finetune_platform.drift.quality import look_at_quality, with_quality
        from finetune_platform.drift.reporting import report_on

        with user_failures():
            traffic = traffic_of(task, lake, database, workbench)
            now = datetime.now(UTC)
            changed = look(task, traffic, lake, database, now, context.log.info)
            # First: an alarm is told even where its report cannot be written, or quality cannot be measured.
            _announce_alarms(database, changed)
            production = production_of(task, traffic, lake, database)
            quality = look_at_quality(task, production, lake, now, context.log.info)
            found = with_quality(changed, quality)
            _announce_alarms(database, found)
            report = report_on(task, traffic, changed, lake, database, context.log.info)
            report = report.model_copy(update={"found": found, "quality_history": quality.history})
            publish_report(lake, report)
        cause = report.changes.cause if report.changes else None
        context.log.info(found.headline)
        return MaterializeResult(
            asset_key=key,
            value=found,
            data_version=DataVersion(found.artifact_id),
            metadata={
                **provenance(found, lake),
                "verdict": found.status,
                "headline": found.headline,
                "report": link(lake, f"{found.path}/{PAGE_NAME}"),
                **({"suspected cause": f"{cause.kind}: {cause.because}"} if cause else {}),
                "champion": found.champion,
                "evidence": found.e_value,
                "limit": found.limit,
                "tick": found.tick,
                "dagster/row_count": found.rows,
                "rows that count": found.counted,
                "until": MetadataValue.timestamp(datetime.fromisoformat(found.until)),
                "channels": table(
                    ("channel", "evidence"),
                    [{"channel": c.name, "evidence": f"{c.e_value:.4g}"} for c in found.channels],
                ),
                **_quality_metadata(found),
            },
        )

    return build


def _announce_alarms(database: Database, found: DriftManifest) -> None:
    """Once each: an alarm stands until a new champion takes over or somebody begins anew, whatever later looks find."""
    for alarm in found.alarms:
        event = Event(
            kind="alarm",
            task=found.task,
            subject=alarm[-120:],
            what=f"{found.headline}; evidence {found.e_value:,.0f}, alarm at {found.limit:,.0f}",
            link=dagster_page(f"assets/{found.task}/{ASSET}"),
            next_step=f"`finetune drift {found.task}` shows it channel by channel and metric by metric",
        )
        announce(database, event)


def _quality_metadata(found: DriftManifest) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if found.performance:
        columns = ("metric", "estimate", "lower", "upper", "baseline", "labels", "judged", "evidence", "degraded")
        told["performance"] = table(columns, [_performance_row(record) for record in found.performance])
    if found.judge:
        told["judge"] = MetadataValue.json(found.judge.model_dump())
    return told


def _performance_row(record: PerformanceRecord) -> dict[str, Any]:
    numbers = {name: getattr(record, name) for name in ("estimate", "lower", "upper", "baseline")}
    return {
        "metric": record.metric,
        **{name: "" if number is None else f"{number:.3f}" for name, number in numbers.items()},
        "labels": record.n_labels,
        "judged": record.n_judged,
        "evidence": f"{record.e_value:.4g} of {record.limit:.0f}",
        "degraded": record.degraded,
    }


def drift_job(task: Task) -> UnresolvedAssetJobDefinition:
    """`{task}_drift`: one look."""
    return define_asset_job(
        name=f"{task.name}_drift",
        selection=AssetSelection.assets(AssetKey([task.name, ASSET])),
        description=f"Looks whether {task.name}'s traffic has changed.",
    )


def drift_schedule(task: Task, job: UnresolvedAssetJobDefinition) -> ScheduleDefinition | None:
    """When the task file says, in UTC; none where it says nothing."""
    if task.drift.cron is None:
        return None
    return ScheduleDefinition(
        name=f"{task.name}_drift_schedule",
        job=job,
        cron_schedule=task.drift.cron,
        default_status=DefaultScheduleStatus.RUNNING,
    )


def traffic_of(task: Task, lake: Lake, database: Database, workbench: Workbench) -> "Traffic":
    """The logged traffic of whoever is champion, and how to read it."""
    from finetune_platform.drift.monitor import Traffic
    from finetune_platform.drift.rows import TrafficRow
    from finetune_platform.drift.state import Champion
    from finetune_platform.inference.embedder import Embedder, fetch_embedder, load_embedder
    from finetune_platform.serving.answered_sample import answered_days
    from finetune_platform.serving.routes import champion_since

    champion = Champion(*champion_since(database, task.name))

    def read(after: datetime, until: datetime) -> Iterator[list[TrafficRow]]:
        for day in answered_days(lake, task, champion.name, after, until):
            yield [TrafficRow(**row._asdict()) for row in day]

    @lru_cache(maxsize=1)
    def embedder() -> Embedder:
        folder = fetch_embedder(task.drift.embedder, task.folder, lake, workbench.cache, lambda line: None)
        return load_embedder(folder)

    return Traffic(champion, read, embedder)
