"""The page where a lead decides one disputed row after the other."""

import asyncio
import itertools
import json
from typing import Any

from nicegui import ui

from finetune_platform.database import Database
from finetune_platform.errors import BadInput, FinetuneError
from finetune_platform.review.decisions import Decisions, Dispute, Docket
from finetune_platform.review.desk import SaidElsewhere
from finetune_platform.review.fragments import fragment
from finetune_platform.review.frame import Frame, in_a_thread
from finetune_platform.review.people import names_of
from finetune_platform.review.spoken import Going, Spoken, heard
from finetune_platform.serving.site.mounting import Visit
from finetune_platform.task import Task

LOOK_S = 5.0

_opened = itertools.count(1)


class DecisionsPage:
    """What one browser shows of one task to a lead.

    Args:
        visit: Who has opened it.
        database: Where the rows are.
        task: Which task.
    """

    def __init__(self, visit: Visit, database: Database, task: Task) -> None:
        self._frame = Frame(visit, "decisions", task)
        self._database, self._task, self._who = database, task, visit.caller.actor
        self._decisions = Decisions(database, task, self._who)
        self._docket: Docket | None = None
        self._here: Dispute | None = None
        self._names_shown = False
        self._heard = ""
        self._one_at_a_time = asyncio.Lock()

    def build(self) -> None:
        """Makes the elements, still empty."""
        self._frame.build()
        self._head = ui.html("", sanitize=False).classes("progress-panel")
        with ui.element("main").classes("wrap review"):
            self._row = ui.html("", sanitize=False).classes("row-panel")
            ui.html(fragment("beside", task=self._task), sanitize=False).classes("beside")
        ui.html(fragment("dialogs", place="decisions", labels=self._task.labeling.labels), sanitize=False)
        ui.on("spoken", self._spoken)
        ui.on("going", self._going)
        ui.on("names", self._names)
        ui.timer(LOOK_S, self._look, immediate=False)

    async def begin(self) -> None:
        """Opens the first row."""
        await self._read()
        self._go_on()
        await self._show()

    async def _read(self) -> None:
        self._docket = await in_a_thread(self._decisions.docket)

    def _go_on(self) -> None:
        self._here = self._decisions.go(self._docket, self._here, "later") if self._docket else None

    async def _show(self) -> None:
        self._show_head()
        here = self._here
        if here is None:
            content = fragment("no_dispute", task=self._task, docket=self._docket, opened=next(_opened))
        else:
            names = await in_a_thread(lambda: names_of(self._database, [side.said.reviewer for side in here.sides]))
            content = fragment(
                "decision",
                opened=next(_opened),
                here=here,
                who=self._who,
                labels=self._task.labeling.labels,
                suggestion=here.row.item.shown_suggestion,
                names=names if self._names_shown else {},
            )
        self._row.set_content(content)

    def _show_head(self) -> None:
        self._head.set_content(fragment("docket", docket=self._docket))

    async def _look(self) -> None:
        """Reviewers go on meanwhile; the row that is open stays as it is."""
        if self._frame.caller() is None or self._one_at_a_time.locked():
            return
        async with self._one_at_a_time:
            try:
                await self._read()
            except FinetuneError:
                return
            self._show_head()
            if self._here is None:
                self._go_on()
                if self._here is not None:
                    await self._show()

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
                await in_a_thread(lambda: self._decisions.decide(here, said.annotation))
                await self._read()
            except SaidElsewhere as elsewhere:
                self._here = here._replace(decided=elsewhere.said)
                self._tell("refused", said.id, f"Not saved: {elsewhere.problem}; {elsewhere.mend}.")
                return
            except BadInput as error:
                self._tell("refused", said.id, f"Not saved: {error.problem}; {error.mend}.")
                return
            except FinetuneError as error:
                self._tell("away", said.id, f"Not saved: {error.problem}.")
                return
            self._heard = said.id
            self._tell("saved", said.id, "Excluded" if said.decision == "flag" else "Decided")
            self._go_on()
            await self._show()

    async def _going(self, event: Any) -> None:
        going = heard(Going, event.args)
        if going is None or self._frame.caller() is None:
            return
        async with self._one_at_a_time:
            try:
                await self._read()
            except FinetuneError as error:
                ui.notify(error.problem, type="warning")
                return
            found = self._decisions.go(self._docket, self._here, going.way) if self._docket else None
            if found is not None and self._here is not None and found.row.number == self._here.row.number:
                self._tell("stayed", "", "There is no other row.")
                return
            self._here = found
            await self._show()

    async def _names(self, _: Any) -> None:
        if self._frame.caller() is None:
            return
        async with self._one_at_a_time:
            self._names_shown = not self._names_shown
            await self._show()

    def _tell(self, what: str, message_id: str, word: str = "") -> None:
        ui.run_javascript(f"review.{what}({json.dumps(message_id)}, {json.dumps(word)})")
