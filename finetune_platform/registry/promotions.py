"""Who holds an alias, since when and why: the promotions table, which alone says what was served when.

Moving an alias is decided elsewhere (`register.py`); here it is written down, once.
"""

from finetune_platform.database import Database, Promotion
from finetune_platform.manifests import AdapterManifest, Record


class PromotionRecord(Record):
    """One alias change. `at` is UTC."""

    adapter_id: str
    alias: str
    previous_adapter_id: str | None
    evaluation_id: str | None
    actor: str
    reason: str
    mlflow_version: str | None
    at: str


def history(database: Database, task: str, adapter_id: str | None = None) -> list[PromotionRecord]:
    """Alias changes of a task (of one adapter, if named), oldest first."""
    return [_record(row) for row in database.promotions(task) if adapter_id in (None, row.adapter_id)]


def record_alias(
    database: Database,
    adapter: AdapterManifest,
    alias: str,
    evaluation_id: str,
    actor: str,
    reason: str,
    mlflow_version: str,
) -> bool:
    """Writes an alias change down unless the adapter holds the alias; returns whether it wrote."""
    previous = database.current(adapter.task, alias)
    if previous == adapter.artifact_id:
        return False
    database.record_promotion(
        task=adapter.task,
        adapter_id=adapter.artifact_id,
        alias=alias,
        previous_adapter_id=previous,
        evaluation_id=evaluation_id,
        actor=actor,
        reason=reason,
        mlflow_version=mlflow_version,
    )
    return True


def _record(row: Promotion) -> PromotionRecord:
    return PromotionRecord(
        adapter_id=row.adapter_id,
        alias=row.alias,
        previous_adapter_id=row.previous_adapter_id,
        evaluation_id=row.evaluation_id,
        actor=row.actor,
        reason=row.reason,
        mlflow_version=row.mlflow_version,
        at=row.created_at.isoformat(timespec="seconds"),
    )
