"""A row of the interactions log as it is written: personal data and secrets replaced, JSON as text.

`stored` makes the record of a write-ahead file, `tables_of` makes tables of records. What counts as personal is
`privacy.py`'s.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa

from finetune_platform.identity import ROW_ID_DIGITS, content_id
from finetune_platform.privacy import redact_json
from finetune_platform.serving.interactions import DAY, FEEDBACK, INTERACTIONS, SCHEMAS, Interaction, Row

JSON_COLUMNS = ("request", "response", "redactions")
FREE_TEXT = ("request", "response", "error", "correction", "comment")
"""Columns that may hold what somebody wrote: upstream servers repeat prompts in their errors."""


def stored(row: Row, redact: bool) -> dict[str, Any]:
    """The record of a row: `kind` names its table, `row` holds its columns.

    Args:
        redact: Whether personal data and secrets are replaced in what people and models wrote. A session that holds
            any is replaced by a hash: it still tells sessions apart.
    """
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    if redact:
        values.update(_redacted(values))
    for name, value in values.items():
        if name in JSON_COLUMNS:
            values[name] = None if value is None else _json(value)
        elif isinstance(value, str):
            values[name] = _unicode(value)
    values["timestamp"] = row.timestamp.astimezone(UTC).isoformat()
    return {"kind": INTERACTIONS if isinstance(row, Interaction) else FEEDBACK, "row": values}


def tables_of(records: Iterable[Mapping[str, Any]]) -> dict[str, pa.Table]:
    """Tables by their path in the lake. Columns that an older version did not know are null, those that only a newer
    one knows are left out."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        moment = datetime.fromisoformat(record["row"]["timestamp"])
        row = {**record["row"], "timestamp": moment, DAY: moment.date()}
        rows[row["task"], record["kind"]].append(row)
    return {f"{task}/{kind}": pa.Table.from_pylist(group, schema=SCHEMAS[kind]) for (task, kind), group in rows.items()}


def _redacted(values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that hold other values afterwards."""
    found: Counter[str] = Counter()
    changed: dict[str, Any] = {}
    for name in FREE_TEXT:
        if values.get(name) is not None:
            changed[name], counts = redact_json(values[name])
            found.update(counts)
    if session := values.get("session"):
        _, counts = redact_json(session)
        if counts:
            changed["session"] = content_id("session", session, ROW_ID_DIGITS)
            found.update(counts)
    return {**changed, "redactions": dict(found)}


def _json(value: Any) -> str:
    """Text of any JSON value, also of what orjson refuses: lone surrogates and integers beyond 64 bits."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)


def _unicode(text: str) -> str:
    """The text with lone surrogates escaped, which no file can hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
