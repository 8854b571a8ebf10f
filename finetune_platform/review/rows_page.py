"""The page where one person answers one row after the other."""

import asyncio
import itertools
import json
from typing import Any

from nicegui import ui

from finetune_platform.database import Database
from finetune_platform.errors import BadInput, FinetuneError
from finetune_platform.labeling.items import Said
from finetune_platform.review.desk import Desk, Opened, SaidElsewhere
from finetune_platform.review.fragments import fragment
from finetune_platform.review.frame import Frame, in_a_thread
from finetune_platform.review.spoken import Going, Spoken, Typed, heard
from finetune_platform.serving.site.mounting import Visit
from finetune_platform.task import Task

PROGRESS_S = 10.0

_opened = itertools.count(1)


class RowsPage:
    """What one browser shows of one task to a reviewer.

    Args:
        visit: Who has opened it.
        database: Where the rows are.
        task: Which task.
    """

    def __init__(self, visit: Visit, database: Database, task: Task) -> None:
        self._frame = Frame(visit, "rows", task)
        self._task, self._who = task, visit.caller.actor
        self._desk = Desk(database, task, self._who)
        self._here: Opened | None = None
        self._heard = ""
        self._one_at_a_time = asyncio.Lock()

    def build(self) -> None:
        """Makes the elements, still empty."""
        self._frame.build()
        self._progress = ui.html("", sanitize=False).classes("progress-panel")
        with ui.element("main").classes("wrap review"):
            self._row = ui.html("", sanitize=False).classes("row-panel")
            ui.html(fragment("beside", task=self._task), sanitize=False).classes("beside")
        ui.html(fragment("dialogs", place="rows", labels=self._task.labeling.labels), sanitize=False)
        ui.on("spoken", self._spoken)
        ui.on("typed", self._typed)
        ui.on("going", self._going)
        ui.timer(PROGRESS_S, self._look, immediate=False)

    async def begin(self) -> None:
        """Opens the first row."""
        self._here = await in_a_thread(self._desk.next)
        await self._show()

    async def _show(self) -> None:
        here = self._here
        if here is None:
            self._row.set_content(fragment("no_row", task=self._task, opened=next(_opened)))
        else:
            self._row.set_content(row_html(self._task, here, self._who))
        await self._show_progress()

    async def _show_progress(self) -> None:
        batch = self._here.batch if self._here else await in_a_thread(self._desk.newest)
        progress = self._desk.progress(batch) if batch else None
        self._progress.set_content(fragment("progress", progress=progress))

    async def _look(self) -> None:
        """Others go on meanwhile: the progress is theirs too, and a new batch or a free row may be there."""
        if self._frame.caller() is None or self._one_at_a_time.locked():
            return
        async with self._one_at_a_time:
            try:
                if self._here is None:
                    self._here = await in_a_thread(self._desk.next)
                    if self._here is not None:
                        await self._show()
                    else:
                        await self._show_progress()
                else:
                    batch = await in_a_thread(self._desk.newest)
                    if batch is not None and batch.batch_id == self._here.batch.batch_id:
                        self._progress.set_content(fragment("progress", progress=self._desk.progress(batch)))
            except FinetuneError:
                return

    async def _spoken(self, event: Any) -> None:
        said = heard(Spoken, event.args)
        if said is None or self._frame.caller() is None:
            return
        async with self._one_at_a_time:
            if said.id == self._heard:
                self._tell("saved", said.id)
                return
            here = self._here
            if here is None or (here.batch.batch_id, here.row.number) != (said.batch, said.number):
                self._tell("refused", said.id, "This is not the row that was open here: load the page again.")
                return
            try:
                word = await in_a_thread(lambda: self._desk.say(here, said.annotation))
                after = await in_a_thread(self._desk.next)
            except SaidElsewhere as elsewhere:
                self._here = here._replace(said=elsewhere.said)
                self._tell("refused", said.id, _in_words(elsewhere))
                return
            except BadInput as error:
                self._tell("refused", said.id, _in_words(error))
                return
            except FinetuneError as error:
                self._tell("away", said.id, f"Not saved: {error.problem}.")
                return
            self._heard, self._here = said.id, after
            self._tell("saved", said.id, word)
            await self._show()

    async def _typed(self, event: Any) -> None:
        typed = heard(Typed, event.args)
        if typed is None or self._frame.caller() is None:
            return
        async with self._one_at_a_time:
            here = self._here
            if here is None or (here.batch.batch_id, here.row.number) != (typed.batch, typed.number):
                return
            try:
                await in_a_thread(lambda: self._desk.keep(here, typed.text))
            except FinetuneError as error:
                self._tell("unkept", typed.id, f"Not kept: {error.problem}.")
                return
            self._tell("kept", typed.id)

    async def _going(self, event: Any) -> None:
        going = heard(Going, event.args)
        if going is None or self._frame.caller() is None:
            return
        async with self._one_at_a_time:
            try:
                found = await in_a_thread(lambda: self._desk.go(self._here, going.way))
            except FinetuneError as error:
                ui.notify(error.problem, type="warning")
                return
            if found is not None and self._here is not None and found.row.number == self._here.row.number:
                self._tell("stayed", "", "This is the first row that you answered." if going.way == "earlier" else "")
                return
            self._here = found
            await self._show()

    def _tell(self, what: str, message_id: str, word: str = "") -> None:
        ui.run_javascript(f"review.{what}({json.dumps(message_id)}, {json.dumps(word)})")


def row_html(task: Task, here: Opened, who: str) -> str:
    """A row and the fields for its answer."""
    said, item = here.said, here.row.item
    return fragment(
        "row",
        opened=next(_opened),
        here=here,
        who=who,
        labels=task.labeling.labels,
        item=item,
        suggestion=item.shown_suggestion,
        prefill=_prefill(here),
        said=said,
    )


def _prefill(here: Opened) -> str:
    """What stands in the answer's field at first: what was typed, else what was said, else what the model answered."""
    said: Said | None = here.said
    if here.draft is not None:
        return here.draft
    if said is not None and said.answer is not None:
        return said.answer
    return here.row.item.shown_suggestion or ""


def _in_words(error: BadInput) -> str:
    return f"Not saved: {error.problem}; {error.mend}."
