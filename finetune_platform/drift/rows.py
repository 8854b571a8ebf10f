"""A row of traffic as drift looks at it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficRow:
    """One interaction.

    Attributes:
        question: The user's messages, one text.
        answer: None where there is none.
        format_valid: None where the task names no format.
        session: Empty where the caller named none.
    """

    interaction_id: str
    timestamp: datetime
    question: str
    answer: str | None = None
    session: str = ""
    tenant: str = ""
    adapter_id: str = ""
    format_valid: bool | None = None
    refused: bool = False
    failed: bool = False
    latency_ms: float | None = None
