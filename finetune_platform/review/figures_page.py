"""The page where a lead sees how far a batch is and how far people agree, as it is now."""

from contextlib import suppress
from typing import NamedTuple

from nicegui import ui

from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError
from finetune_platform.labeling.batches import Batch, newest_batch, newest_open_batch, read_batch
from finetune_platform.labeling.figures import figures_of
from finetune_platform.labeling.readiness import readiness_of
from finetune_platform.review.fragments import fragment
from finetune_platform.review.frame import Frame, in_a_thread
from finetune_platform.review.people import names_of
from finetune_platform.serving.site.mounting import Visit
from finetune_platform.task import Task

LOOK_S = 3.0


class FiguresPage:
    """What one browser shows of one task's batch.

    Args:
        visit: Who has opened it.
        database: Where the rows are.
        task: Which task.
    """

    def __init__(self, visit: Visit, database: Database, task: Task) -> None:
        self._frame = Frame(visit, "figures", task)
        self._database, self._task = database, task
        self._shown: Batch | None = None

    def build(self) -> None:
        """Makes the elements, still empty."""
        self._frame.build()
        with ui.element("main").classes("wrap"):
            self._panel = ui.html("", sanitize=False).classes("figures")
        ui.timer(LOOK_S, self._look, immediate=False)

    async def begin(self) -> None:
        """Shows what is known now; nothing is computed while nobody says anything."""
        batch = await in_a_thread(lambda: _newest(self._database, self._task.name))
        if batch is None:
            self._panel.set_content(fragment("no_batch", task=self._task))
        elif batch != self._shown:
            self._panel.set_content(await in_a_thread(lambda: figures_html(self._database, self._task, batch)))
        self._shown = batch

    async def _look(self) -> None:
        if self._frame.caller() is not None:
            # The last figures stay while the database is away.
            with suppress(FinetuneError):
                await self.begin()


class Scale(NamedTuple):
    """Places on the scale of alpha, in percent of its width; it begins at 0, or below where alpha does."""

    value: float
    lower: float
    upper: float
    least: float
    zero: float
    begins: float


def figures_html(database: Database, task: Task, batch: Batch) -> str:
    """A batch in figures.

    Args:
        database: Where people's names are.
        task: Whose batch.
        batch: Which.
    """
    figures = figures_of(batch, task.cost.label)
    return fragment(
        "figures",
        task=task,
        batch=batch,
        figures=figures,
        readiness=readiness_of(batch, figures, task.labeling.min_agreement),
        scale=scale_of(figures.alpha.value, figures.alpha.lower, figures.alpha.upper, task.labeling.min_agreement),
        names=names_of(database, [person.reviewer for person in figures.people]),
    )


def scale_of(value: float | None, lower: float | None, upper: float | None, least: float) -> Scale | None:
    """Where alpha stands between its least possible place and 1; None where it does not exist."""
    if value is None or lower is None or upper is None:
        return None
    begins = min(0.0, lower, least)

    def at(number: float) -> float:
        return 100 * (number - begins) / (1 - begins)

    return Scale(at(value), at(lower), at(upper), at(least), at(0.0), begins)


def _newest(database: Database, task: str) -> Batch | None:
    batch_id = newest_open_batch(database, task) or newest_batch(database, task)
    return read_batch(database, batch_id) if batch_id else None
