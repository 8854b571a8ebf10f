"""A running chain on the screen: one line a stage, with a bar while it runs; plain lines or JSON lines elsewhere.

What a stage does belongs in `assets/`, what events it sends in `sensors/by_hand.py`; what came of it is shown by
`summary.py`.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from finetune_platform.progress import Progress, SendEvent, StageEvent, duration, parse_progress

PLAIN_PROGRESS_EVERY_S = 10.0
"""A log file needs fewer progress lines than a screen."""


@dataclass
class StageLine:
    """What the screen knows of one stage."""

    stage: str
    state: Literal["pending", "running", "succeeded", "failed", "skipped"] = "pending"
    started: float = 0.0
    ended: float = 0.0
    progress: Progress | None = None
    message: str = ""

    def take(self, event: StageEvent) -> None:
        """Follows an event."""
        if event.kind == "log":
            progress = parse_progress(event.message)
            self.progress = progress or self.progress
            if progress is None:
                self.message = event.message
            return
        if event.kind == "started":
            self.state, self.started = "running", event.timestamp
        else:
            self.state, self.ended = event.kind, event.timestamp
            self.started = self.started or event.timestamp
        self.progress, self.message = None, event.message

    def elapsed(self, now: float) -> str:
        """How long it has run, or ran."""
        return duration((self.ended or now) - self.started) if self.started else ""


class Screen:
    """The live view of a terminal."""

    def __init__(self, stages: Sequence[str]) -> None:
        self.lines = {stage: StageLine(stage) for stage in stages}
        self._spinner = Spinner("dots", style="cyan")

    def take(self, event: StageEvent) -> None:
        self.lines.setdefault(event.stage, StageLine(event.stage)).take(event)

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for line in self.lines.values():
            table.add_row(*self._cells(line))
        failed = [line for line in self.lines.values() if line.state == "failed"]
        return Group(table, *(Text(line.message, "red") for line in failed))

    def _cells(self, line: StageLine) -> tuple[RenderableType, ...]:
        elapsed = Text(line.elapsed(time.time()), "dim")
        match line.state:
            case "running" if line.progress:
                bar = ProgressBar(total=line.progress.total, completed=line.progress.done, width=24)
                detail = f"{line.progress.done}/{line.progress.total} {line.progress.unit} | {line.progress.detail}"
                return self._spinner, Text(line.stage, "bold"), elapsed, bar, Text(detail)
            case "running":
                return self._spinner, Text(line.stage, "bold"), elapsed, Text(), Text(_first_line(line.message), "dim")
            case "succeeded":
                return Text("✓", "green"), Text(line.stage), elapsed, Text("done"), Text(_first_line(line.message))
            case "skipped":
                return Text("✓", "green"), Text(line.stage), Text(), Text("reused"), Text(_first_line(line.message))
            case "failed":
                return Text("✗", "red"), Text(line.stage, "red"), elapsed, Text("failed", "red"), Text()
            case _:
                return Text("·", "dim"), Text(line.stage, "dim"), Text(), Text(), Text()


class PlainLines:
    """The view of a log file or a pipe: a line an event, progress now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.time()
        self._last_progress = float("-inf")

    def take(self, event: StageEvent) -> None:
        progress = parse_progress(event.message) if event.kind == "log" else None
        if progress and progress.done < progress.total:
            if event.timestamp - self._last_progress < PLAIN_PROGRESS_EVERY_S:
                return
            self._last_progress = event.timestamp
        told = "" if event.kind == "log" else " reused" if event.kind == "skipped" else f" {event.kind}"
        clock = duration(max(event.timestamp - self._began, 0))
        text = f"[{clock}] {event.stage}:{told} {event.message}".rstrip()
        self._console.print(text, markup=False, soft_wrap=True)


@contextmanager
def stage_view(stages: Sequence[str], as_json: bool = False, console: Console | None = None) -> Iterator[SendEvent]:
    """Shows the events that are sent to it, in the way that suits where stdout goes.

    Args:
        stages: Names in the order in which they will run.
        as_json: One JSON object a line instead.
        console: Where to; stdout by default.
    """
    target = console or Console(highlight=False)
    if as_json:
        yield _json_line
    elif not target.is_terminal:
        yield PlainLines(target).take
    else:
        screen = Screen(stages)
        with Live(screen, console=target, refresh_per_second=8):
            yield screen.take


def _json_line(event: StageEvent) -> None:
    sys.stdout.write(json.dumps(event._asdict(), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
