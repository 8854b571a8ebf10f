"""The rows of the interactions log, their columns, their tables, and which interactions are kept.

What of a row is written belongs in `stored_rows.py`, getting it safely to disk in `write_ahead.py`, from there to the
lake in `flush.py`; `interaction_log.py` is the whole as the gateway sees it.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import pyarrow as pa

from finetune_platform.serving.plan import Arm, position

Reason = Literal["share", "canary", "shadow", "error", "feedback"]

Json = Annotated[Any, "JSON"]
"""Any JSON value here, its text in the table."""

DAY = "date"
"""The table's own column beside the row's: the day of `timestamp` in UTC. Tables keep the days apart, so that one is
read, compacted or deleted without touching another."""

ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """One answer that the gateway gave, or that a shadow gave to nobody. The fields are the table's columns.

    Attributes:
        timestamp: When the answer was complete, with its zone; stored in UTC.
        session: What stuck together when the arm was chosen.
        adapter_id: Who answered; `base` for the base model.
        request: OpenAI's request as it was sent to the engine; nobody changes it afterwards.
        response: OpenAI's whole response, streamed or not; None where there is none.
        latency_ms: From the request's arrival to the last byte.
        error: Why there is no answer, or why it broke off.
        format_valid: Whether the answer has the task's format; None where the task names none.
        gateway: Which gateway process.
        sampled_because: What made the log keep it.
        redactions: How many of what were replaced; filled in by the log.
    """

    interaction_id: str
    timestamp: datetime
    task: str
    tenant: str = ""
    session: str = ""
    adapter_id: str
    arm: Arm
    request: Json
    response: Json = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_ms: float
    error: str | None = None
    format_valid: bool | None = None
    refused: bool = False
    streamed: bool = False
    finish_reason: str | None = None
    key_id: str = ""
    gateway: str = ""
    sampled_because: Reason
    redactions: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackEvent:
    """One word of a user on one answer. Later words do not replace earlier ones here.

    Attributes:
        rating: The number as it was given; None where none was.
        positive: What it amounts to; None where it says neither.
        correction: What the answer should have been.
        accepted: Whether the application's user took the answer.
    """

    interaction_id: str
    timestamp: datetime
    task: str
    adapter_id: str
    arm: Arm
    rating: float | None = None
    positive: bool | None = None
    correction: str | None = None
    accepted: bool | None = None
    comment: str | None = None
    key_id: str = ""
    redactions: Json = None


Row = Interaction | FeedbackEvent


def schema_of(row: type[Row]) -> pa.Schema:
    """The table's columns: the fields of a kind of row, in their order, and the day."""
    hints = get_type_hints(row, include_extras=True)
    return pa.schema([*((field.name, _arrow(hints[field.name])) for field in fields(row)), (DAY, pa.date32())])


def _arrow(hint: Any) -> pa.DataType:
    if hint is Json or get_origin(hint) is Literal:
        return pa.string()
    plain = [kind for kind in getattr(hint, "__args__", (hint,)) if kind is not type(None)]
    return ARROW[plain[0]]


INTERACTION_SCHEMA = schema_of(Interaction)
FEEDBACK_SCHEMA = schema_of(FeedbackEvent)
"""Every column may be null: a table outlives the version that wrote it."""

INTERACTIONS, FEEDBACK = "interactions", "feedback"
SCHEMAS: dict[str, pa.Schema] = {INTERACTIONS: INTERACTION_SCHEMA, FEEDBACK: FEEDBACK_SCHEMA}
"""The kinds of row by the name of their table inside the task's folder."""


def interactions_path(task: str) -> str:
    """Where a task's interactions lie in the lake: a Delta table."""
    return f"{task}/{INTERACTIONS}"


def feedback_path(task: str) -> str:
    """Where a task's feedback lies in the lake: a Delta table."""
    return f"{task}/{FEEDBACK}"


class Sampler:
    """Which of a task's interactions are kept: errors, canary and shadow always, of the rest a share.

    Args:
        task: Its name.
        share: In [0, 1]. The same interaction is kept or not whoever asks, and a larger share keeps what a smaller
            one kept.
    """

    def __init__(self, task: str, share: float) -> None:
        self.task = task
        self.share = share

    def reason(self, interaction_id: str, arm: Arm, error: str | None = None) -> Reason | None:
        """Why an interaction is kept; None where it is not."""
        if error is not None:
            return "error"
        if arm == "canary":
            return "canary"
        if arm == "shadow":
            return "shadow"
        return "share" if position(self.task, "log", interaction_id) < self.share else None
