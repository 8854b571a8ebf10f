"""Scores of production answers as they are kept: the Delta table `{task}/measurements/`, which only grows.

It holds numbers and ids, no text, so it outlives the log and the evidence of a year can be computed anew from it. What
the scores amount to belongs in `performance.py`, how they come about in `quality.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from finetune_platform.drift.performance import PerformanceRow
from finetune_platform.lake import Lake, Once

Kind = Literal["sampled", "labelled", "voted", "anew"]

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("look", pa.int64()),
        ("moment", pa.timestamp("us", tz="UTC")),
        ("adapter_id", pa.string()),
        ("interaction_id", pa.string()),
        ("seen_until", pa.timestamp("us", tz="UTC")),
        ("stratum", pa.string()),
        ("weight", pa.float64()),
        ("judge_id", pa.string()),
        ("judged", pa.float64()),
        ("scores", pa.string()),
    ]
)
"""`judge_id` is that of the judge who was asked and answered, readably or not; `scores` is JSON by metric."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One answer as one look scored it; see `PerformanceRow`.

    Attributes:
        kind: Why it was scored: drawn for the judge, labelled by an expert, or a user said something of it.
        seen_until: When the newest answer was given of all that it was drawn from; None where it was not drawn.
    """

    kind: Kind
    interaction_id: str
    seen_until: datetime | None = None
    stratum: str = ""
    weight: float = 1.0
    judge_id: str = ""
    judged: float | None = None
    scores: dict[str, float] = field(default_factory=dict)


class Kept(NamedTuple):
    """What earlier looks scored.

    Attributes:
        rows: Of this adapter since the last beginning, in the order of their looks.
        known: Kind and id of each of them.
        seen_until: When the newest answer was given of all that the judge's were drawn from; None: none were.
        since: The last beginning.
        next_look: Its number.
    """

    rows: list[PerformanceRow]
    known: set[tuple[str, str]]
    seen_until: datetime | None
    since: datetime
    next_look: int


def measurements_path(task: str) -> str:
    """Where a task's measurements lie in the lake: a Delta table."""
    return f"{task}/measurements"


def read_measurements(lake: Lake, task: str, adapter_id: str, since: datetime) -> Kept:
    """What was measured of an adapter since it took over, or since somebody began anew."""
    table = _read(lake, task)
    begun = pc.max(table.filter(pc.equal(table.column("kind"), "anew")).column("moment")).as_py()
    start = max(since, begun) if begun else since
    mine = table.filter(pc.equal(table.column("adapter_id"), adapter_id))
    newest_look = pc.max(mine.column("look")).as_py()
    mine = mine.filter(pc.greater_equal(mine.column("moment"), pa.scalar(start, pa.timestamp("us", tz="UTC"))))
    mine = mine.sort_by([("look", "ascending"), ("kind", "ascending"), ("interaction_id", "ascending")])
    found = mine.to_pylist()
    return Kept(
        rows=[_row(record) for record in found],
        known={(record["kind"], record["interaction_id"]) for record in found},
        seen_until=pc.max(mine.column("seen_until")).as_py(),
        since=start,
        next_look=1 if newest_look is None else newest_look + 1,
    )


def keep_measurements(
    lake: Lake, task: str, adapter_id: str, look: int, moment: datetime, rows: Sequence[Measurement]
) -> bool:
    """Adds what a look scored; of two looks of the same number one is kept.

    Returns:
        False where another look was faster.
    """
    records = [
        {**vars(row), "scores": json.dumps(row.scores), "look": look, "moment": moment, "adapter_id": adapter_id}
        for row in rows
    ]
    return _append(lake, task, records, Once(adapter_id, look))


def measure_anew(lake: Lake, task: str, moment: datetime) -> None:
    """Forgets what was measured of a task so far, of all its adapters: the table keeps it, later looks do not count it.

    Nothing to do where nothing was measured.
    """
    if _read(lake, task).num_rows:
        _append(lake, task, [{"kind": "anew", "moment": moment}], None)


def judge_calls(lake: Lake, task: str, since: datetime) -> int:
    """Answers of the judge about a task's adapters after a moment, readable or not: each has its price.

    Those that somebody has begun anew after, and those about earlier champions, count too: they were paid for.
    """
    table = _read(lake, task, ["moment", "judge_id"])
    asked = pc.and_(
        pc.greater(table.column("moment"), pa.scalar(since, pa.timestamp("us", tz="UTC"))),
        pc.not_equal(table.column("judge_id"), ""),
    )
    return pc.sum(asked).as_py() or 0


def _append(lake: Lake, task: str, records: list[dict[str, Any]], once: Once | None) -> bool:
    return lake.append(measurements_path(task), pa.Table.from_pylist(records, schema=SCHEMA), once)


def _read(lake: Lake, task: str, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    path = measurements_path(task)
    try:
        table = lake.table(path)
    except FileNotFoundError:
        return SCHEMA.empty_table()
    with lake.table_failures(path):
        return table.to_pyarrow_table(columns=list(columns))


def _row(record: dict[str, Any]) -> PerformanceRow:
    return PerformanceRow(
        look=record["look"],
        moment=record["moment"],
        stratum=record["stratum"],
        weight=record["weight"],
        judge_id=record["judge_id"],
        judged=record["judged"],
        scores=json.loads(record["scores"]),
    )
