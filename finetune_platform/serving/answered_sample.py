"""What a champion answered, as the interactions log holds it: a random sample, to compare traffic with traffic."""

import json
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from finetune_platform.lake import Lake
from finetune_platform.retrieval.prompt import question_of
from finetune_platform.serving.interactions import DAY, Sampler, interactions_path
from finetune_platform.task import Task

COLUMNS = (
    "interaction_id", "timestamp", "session", "tenant", "adapter_id", "arm", "request", "response", "latency_ms",
    "error", "format_valid", "refused",
)  # fmt: skip


class Answered(NamedTuple):
    """One logged answer.

    Attributes:
        question: The last user message.
        answer: None where there is none.
    """

    interaction_id: str
    timestamp: datetime
    question: str
    answer: str | None
    session: str
    tenant: str
    adapter_id: str
    format_valid: bool | None
    refused: bool
    failed: bool
    latency_ms: float | None


def answered_days(lake: Lake, task: Task, adapter: str, after: datetime, until: datetime) -> Iterator[list[Answered]]:
    """The champion's logged answers after one moment up to another, a list a day, oldest first; no empty lists.

    A day is in memory at a time, so months are read as easily. Errors are always logged, other answers with the task's
    `log_share`: of errors, too, that share is given here, so that their rate is the traffic's. Canaries' and shadows'
    answers say nothing about the champion's.

    Args:
        lake: Holds the log.
        task: Its log is read.
        adapter: The champion's id, or "base".
        after: The moment itself is left out.
        until: The moment itself is taken.
    """
    path = interactions_path(task.name)
    try:
        log = lake.table(path)
    except FileNotFoundError:
        return
    first, last = (moment.astimezone(UTC).date().isoformat() for moment in (after, until))
    sampler = Sampler(task.name, task.serving.log_share)
    for day in sorted({day for partition in log.partitions() if (day := partition[DAY]) and first <= day <= last}):
        with lake.table_failures(path):
            found = log.to_pyarrow_table(
                columns=list(COLUMNS),
                filters=[
                    (DAY, "=", date.fromisoformat(day)), ("timestamp", ">", after), ("timestamp", "<=", until),
                    ("adapter_id", "=", adapter), ("arm", "in", ["champion", "base"]),
                ],
            )  # fmt: skip
        rows = [row for row in found.to_pylist() if sampler.reason(row["interaction_id"], row["arm"]) == "share"]
        if rows:
            yield sorted((_answered(row) for row in rows), key=lambda row: (row.timestamp, row.interaction_id))


def answered_since(lake: Lake, task: Task, adapter: str, after: datetime) -> int:
    """How many answers of the champion the log holds after a moment, those that only errors brought there too."""
    try:
        log = lake.table(interactions_path(task.name))
    except FileNotFoundError:
        return 0
    import pyarrow.dataset as ds

    recent = (ds.field(DAY) >= (after - timedelta(days=1)).date()) & (ds.field("timestamp") > after)
    served = (ds.field("adapter_id") == adapter) & ds.field("arm").isin(["champion", "base"])
    with lake.table_failures(interactions_path(task.name)):
        return log.to_pyarrow_dataset().count_rows(filter=recent & served)


class Asked(NamedTuple):
    """What one interaction was about: the request's messages, and the answer; None where there was none."""

    messages: tuple[dict[str, Any], ...]
    answer: str | None


def asked_of(lake: Lake, task: str, interaction_ids: Collection[str]) -> dict[str, Asked]:
    """What was asked and answered, by interaction id; those that the log does not hold are not there."""
    if not interaction_ids:
        return {}
    try:
        log = lake.table(interactions_path(task))
    except FileNotFoundError:
        return {}
    columns = ["interaction_id", "request", "response"]
    with lake.table_failures(interactions_path(task)):
        table = log.to_pyarrow_table(columns=columns, filters=[("interaction_id", "in", sorted(interaction_ids))])
    return {
        row["interaction_id"]: Asked(
            tuple(json.loads(row["request"] or "{}").get("messages") or ()), _answer(row["response"])
        )
        for row in table.to_pylist()
    }


def _answered(row: dict[str, Any]) -> Answered:
    return Answered(
        interaction_id=row["interaction_id"],
        timestamp=row["timestamp"],
        question=question_of(json.loads(row["request"] or "{}").get("messages") or []),
        answer=_answer(row["response"]),
        session=row["session"] or "",
        tenant=row["tenant"] or "",
        adapter_id=row["adapter_id"],
        format_valid=row["format_valid"],
        refused=bool(row["refused"]),
        failed=row["error"] is not None,
        latency_ms=row["latency_ms"],
    )


def _answer(response: str | None) -> str | None:
    choices = (json.loads(response) or {}).get("choices") if response else None
    content = choices[0].get("message", {}).get("content") if choices else None
    return None if content is None else str(content)
