"""Rows of the interactions log for tests."""

from datetime import UTC, datetime
from typing import Any

from finetune_platform.lake import Lake
from finetune_platform.serving.interactions import DAY, FeedbackEvent, Interaction
from finetune_platform.serving.stored_rows import stored, tables_of


def interaction(number: int = 0, **changes: Any) -> Interaction:
    """A logged answer of the task `topics`."""
    request = {"model": "topics", "messages": [{"role": "user", "content": f"My card was declined, case {number}."}]}
    message = {"role": "assistant", "content": "card"}
    fields: dict[str, Any] = {
        "interaction_id": f"in-{number}",
        "timestamp": datetime.now(UTC),
        "task": "topics",
        "adapter_id": "ad-1",
        "arm": "champion",
        "request": request,
        "response": {"choices": [{"message": message, "finish_reason": "stop"}]},
        "latency_ms": 12.5,
        "sampled_because": "share",
    }
    return Interaction(**fields | changes)


def feedback(number: int = 0, **changes: Any) -> FeedbackEvent:
    """A word on `interaction(number)`."""
    fields: dict[str, Any] = {
        "interaction_id": f"in-{number}",
        "timestamp": datetime.now(UTC),
        "task": "topics",
        "adapter_id": "ad-1",
        "arm": "champion",
        "rating": 1.0,
        "positive": True,
    }
    return FeedbackEvent(**fields | changes)


def put_in(lake: Lake, *rows: Interaction | FeedbackEvent) -> None:
    """Appends rows to their tables, one commit."""
    for path, table in tables_of(stored(row, redact=False) for row in rows).items():
        lake.append(path, table, partition_by=DAY)


def rows_of(lake: Lake, path: str = "topics/interactions") -> list[dict[str, Any]]:
    """A table's rows by their id; none where there is no table."""
    try:
        table = lake.table(path).to_pyarrow_table()
    except FileNotFoundError:
        return []
    return table.sort_by("interaction_id").to_pylist()
