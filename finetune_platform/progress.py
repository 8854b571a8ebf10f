"""Progress of long work: one line that a terminal, Dagster's log and a parser read alike, and a stage's events.

`training 48/116 steps | 11.8 rows/s | 00:42 left | loss 0.731`
"""

import re
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

Report = Callable[[str], None]
"""Where lines go: `context.log.info` in Dagster, `print` under plain Python."""


class Progress(NamedTuple):
    """One parsed progress line."""

    stage: str
    done: int
    total: int
    unit: str
    detail: str


StageKind = Literal["started", "log", "succeeded", "failed", "skipped"]


class StageEvent(NamedTuple):
    """What happened to a stage. `skipped` means that its artifact is in place; `timestamp` is Unix time in seconds."""

    stage: str
    kind: StageKind
    message: str
    timestamp: float


SendEvent = Callable[[StageEvent], None]
"""Where a running chain's events go: a screen, a log, a script."""

_LINE = re.compile(r"^(?P<stage>[\w \-]+) (?P<done>\d+)/(?P<total>\d+) (?P<unit>\w+) \| (?P<detail>.*)$")


def parse_progress(line: str) -> Progress | None:
    """The progress that `line` tells of, or None where it is another line."""
    match = _LINE.match(line)
    if match is None:
        return None
    return Progress(match["stage"], int(match["done"]), int(match["total"]), match["unit"], match["detail"])


def duration(seconds: float) -> str:
    """`mm:ss`, or `h:mm:ss` from an hour on."""
    hours, rest = divmod(round(seconds), 3600)
    clock = f"{rest // 60:02d}:{rest % 60:02d}"
    return f"{hours}:{clock}" if hours else clock


class Ticker:
    """Reports the progress of one piece of long work, at most every `every_s` seconds.

    Args:
        report: Where lines go.
        stage: What is going on, in words.
        total: How many units there are; progress at the total is always reported.
        unit: What is counted for the bar (`steps`, `rows`).
        rate_unit: What the rate counts (`rows`, `tokens`).
        every_s: Least seconds between two lines.
        already_done: Units that were complete before; work resumed at step 60 has no part in its rate.
    """

    def __init__(
        self,
        report: Report,
        stage: str,
        total: int,
        unit: str,
        rate_unit: str = "",
        every_s: float = 2.0,
        already_done: int = 0,
    ) -> None:
        self.report, self.stage, self.total, self.unit = report, stage, total, unit
        self.rate_unit = rate_unit or unit
        self.every_s = every_s
        self.started = time.monotonic()
        self.already_done = already_done
        self.last_line = float("-inf")

    def at(self, done: int, rate_count: int | None = None, detail: str = "") -> None:
        """Tells that `done` units are complete; `rate_count` is what the rate counts since the start."""
        now = time.monotonic()
        if done < self.total and now - self.last_line < self.every_s:
            return
        self.last_line = now
        elapsed = max(now - self.started, 1e-9)
        if new := done - self.already_done:
            rate = (rate_count if rate_count is not None else new) / elapsed
            left = duration((self.total - done) * elapsed / new)
            parts = [f"{rate:.1f} {self.rate_unit}/s", f"{left} left", detail]
        else:
            parts = ["started", detail]
        line = f"{self.stage} {done}/{self.total} {self.unit} | " + " | ".join(p for p in parts if p)
        self.report(line)
