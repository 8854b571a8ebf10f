"""The task file's section about drift: what new traffic is compared with, and how often. Acting on it is `drift/`'s."""

from pydantic import Field

from finetune_platform.model_ref import DEFAULT_EMBEDDER, EmbedderRef
from finetune_platform.strict import Cron, Strict


class Drift(Strict):
    """How production is watched.

    The first `reference_rows` logged questions after a champion took over are what all later ones are compared with;
    more find smaller changes. `cron` (UTC) says when a tick looks at what came since, and `rows_a_look` after how many
    rows a sensor does; without either only `finetune drift` does. Rows younger than `settle_minutes` wait for the next
    tick: gateways write their log in pieces.

    A metric is degraded when it is surely more than `max_degradation` (a share) below what the champion's evaluation
    said. Estimates are of labels of the last `window_days`.
    """

    embedder: EmbedderRef = DEFAULT_EMBEDDER
    reference_rows: int = Field(default=2000, ge=100)
    settle_minutes: float = Field(default=10.0, ge=0)
    rows_a_look: int | None = Field(default=None, ge=10)
    max_degradation: float = Field(default=0.1, gt=0, lt=1)
    window_days: int = Field(default=30, gt=0)
    cron: Cron | None = "15 6 * * *"
