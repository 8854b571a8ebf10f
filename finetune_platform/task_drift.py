"""The task file's section about drift: what new traffic is compared with, and how often. Acting on it is `drift/`'s."""

from typing import Any

from pydantic import Field, field_validator

from finetune_platform.model_ref import DEFAULT_EMBEDDER, EmbedderRef
from finetune_platform.strict import Strict, checked_cron


class Drift(Strict):
    """How production is watched.

    The first `reference_rows` logged questions after a champion took over are what all later ones are compared with;
    more find smaller changes. `cron` (UTC) says when a tick looks at what came since; without it only
    `finetune drift` does. Rows younger than `settle_minutes` wait for the next tick: gateways write their log in
    pieces.
    """

    embedder: EmbedderRef = DEFAULT_EMBEDDER
    reference_rows: int = Field(default=2000, ge=100)
    settle_minutes: float = Field(default=10.0, ge=0)
    cron: str | None = "15 6 * * *"

    @field_validator("embedder", mode="before")
    @classmethod
    def a_bare_uri_is_enough(cls, value: Any) -> Any:
        return {"uri": value} if isinstance(value, str) else value

    @field_validator("cron")
    @classmethod
    def is_cron(cls, cron: str | None) -> str | None:
        return None if cron is None else checked_cron(cron)
