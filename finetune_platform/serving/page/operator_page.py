"""One open page: its panels, refreshed every two seconds, and its buttons. A panel that has not changed is not sent."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from finetune_platform.errors import BadInput, TransientError
from finetune_platform.serving.callers import Caller, Refused
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.operator_api import Action, perform
from finetune_platform.serving.page.action_dialog import ActionDialog
from finetune_platform.serving.page.board import PATIENCE_S, Board, Look
from finetune_platform.serving.page.fragments import fragment
from finetune_platform.serving.page.offers import Offer, offers_of, place_of
from finetune_platform.serving.page.panels import panels_of, plots_panel, task_list
from finetune_platform.serving.page.plots import HOUR, SPANS, Span
from finetune_platform.serving.page.verdicts import verdict_of
from finetune_platform.serving.site.sessions import Session, Sessions
from finetune_platform.serving.traffic import bucket_of

REFRESH_S = 2.0
BUTTONS: tuple[Action, ...] = ("step", "hold", "resume", "abort", "rollback", "demote", "kill", "revive")
DANGEROUS: tuple[Action, ...] = ("rollback", "demote", "kill")
SIGNED_OUT = "/login?ended=1"
READERS = ThreadPoolExecutor(2, "operator-page")
"""Not the loop's own threads: what waits for a database here must keep nobody else waiting."""


class OperatorPage:
    """What one browser shows of one task.

    Args:
        gateway: Whose page it is.
        board: What is known of the tasks.
        sessions: Where the viewer's key is.
        session: The viewer.
        task: The task that is shown in full.
    """

    def __init__(self, gateway: Gateway, board: Board, sessions: Sessions, session: Session, task: str) -> None:
        self._gateway, self._board, self._sessions, self._session, self._task = gateway, board, sessions, session, task
        self._span: Span = HOUR
        self._panels: dict[str, ui.html] = {}
        self._buttons: dict[Action, ui.button] = {}
        self._offers: dict[Action, Offer] = {}
        self._place: tuple[Any, ...] = ()
        self._asked_at: tuple[Any, ...] = ()
        self._drawn: tuple[tuple[Any, ...], str] | None = None
        self._refreshing = asyncio.Lock()

    def build(self) -> None:
        """Makes the elements, still empty."""
        self._panel("top", "")
        self._panel("banner", "")
        with ui.element("main").classes("wrap"):
            self._panel("tasks", "")
            with ui.element("section").classes("card"):
                self._panel("verdict", "", "role=status")
                self._build_buttons()
            with ui.element("div").classes("two"):
                self._panel("rollout", "card")
                self._panel("arms", "card")
            self._panel("guardrails", "card")
            with ui.element("section").classes("traffic"):
                with ui.element("div").classes("head"):
                    ui.html("Traffic", tag="h2")
                    toggle = ui.toggle(list(SPANS), value=self._span.name, on_change=self._pick_span)
                    toggle.props("unelevated no-caps toggle-color=none toggle-text-color=none").classes("toggle")
                self._panel("plots", "plots")
            self._panel("history", "card")
        self._dialog = ActionDialog(self._task, self._do)
        ui.timer(REFRESH_S, self.refresh, immediate=False)

    async def refresh(self) -> None:
        """Shows what is known now; whoever may not look any more is sent to the sign-in page."""
        async with self._refreshing:
            caller = self._caller()
            if caller is None:
                return
            names = [served.name for served in self._gateway.tasks_of(caller)]
            # The database may take its time, and what is known is shown anyhow: above all that it does not answer.
            reading = asyncio.get_running_loop().run_in_executor(
                READERS, self._board.update, self._task, self._span.length, names
            )
            await asyncio.wait([reading], timeout=PATIENCE_S)
            for name, html in (await asyncio.to_thread(self._content, caller, names)).items():
                self._panels[name].set_content(html)
            for action, button in self._buttons.items():
                self._show_button(button, self._offers[action])

    def _panel(self, name: str, classes: str, props: str = "") -> None:
        self._panels[name] = ui.html("", sanitize=name != "top").classes(classes).props(props)

    def _build_buttons(self) -> None:
        with ui.element("div").classes("actions").props('role=group aria-label="Actions"'):
            for action in BUTTONS:
                if action == "demote":
                    ui.element("span").classes("gap")
                button = ui.button("", on_click=lambda action=action: self._ask(action), color=None)
                kind = "danger" if action in DANGEROUS else "main" if action == "step" else "plain"
                self._buttons[action] = button.props(f"unelevated no-caps data-action={action}").classes(kind)

    def _show_button(self, button: ui.button, offer: Offer) -> None:
        opposite: dict[Action, Action] = {"resume": "hold", "revive": "kill"}
        hidden = {
            "hold": not self._offers["resume"].applies,
            "kill": not self._offers["revive"].applies,
        }
        if offer.action in opposite:
            button.set_visibility(offer.applies)
        elif offer.action in hidden:
            button.set_visibility(hidden[offer.action])
        button.set_text(offer.label)
        button.set_enabled(not offer.refusal)
        if button.props.get("title") != offer.refusal:
            button.props["title"] = offer.refusal
            button.update()

    def _content(self, caller: Caller, names: list[str]) -> dict[str, str]:
        away_since = self._board.away_since
        look = self._board.look(self._task, self._span.length)
        self._offers = offers_of(
            look.plan, look.rollout, may_change=caller.may("change_routes"), database_is_away=away_since is not None
        )
        self._place = place_of(look.rollout, look.plan)
        away = away_since is not None
        verdicts = {
            name: verdict_of(self._gateway.watch.plan(name), self._board.rollout(name), away=away)
            for name in (names if len(names) > 1 else [])
        }
        frame = {"caller": caller, "gateway": self._gateway.name, "away_since": away_since, "at": look.at}
        return {
            "top": fragment("top", **frame),
            "banner": fragment("banner", read_only=not caller.may("change_routes"), **frame),
            "tasks": task_list(verdicts, self._task),
            **panels_of(look, away),
            "plots": self._plots_of(look),
        }

    def _plots_of(self, look: Look) -> str:
        """Drawn anew only when there may be something new to draw."""
        now = datetime.now(UTC)
        key = (self._span, bucket_of(now), len(look.history), look.at is None)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, plots_panel(look, self._span, now)
        return self._drawn[1]

    def _caller(self) -> Caller | None:
        """The viewer, who is sent away where the key is not good any more; None: not now."""
        try:
            caller = self._sessions.caller(self._session)
        except Refused as refused:
            if refused.status in (401, 403):
                ui.navigate.to(SIGNED_OUT)
            return None
        if not caller.may_use(self._task):
            ui.navigate.to("/")
            return None
        return caller

    async def _pick_span(self, event: Any) -> None:
        self._span = SPANS[event.value]
        await self.refresh()

    def _ask(self, action: Action) -> None:
        offer = self._offers[action]
        if offer.refusal:
            ui.notify(offer.refusal, type="warning")
            return
        self._asked_at = self._place
        self._dialog.ask(offer, action in DANGEROUS)

    async def _do(self, offer: Offer, reason: str) -> str:
        caller = self._caller()
        if caller is None or not caller.may("change_routes"):
            return "Your key may not change anything."
        try:
            told = await asyncio.to_thread(self._perform, offer.action, caller.actor, reason)
        except BadInput as error:
            return f"{error.problem}; {error.mend}"
        except TransientError as error:
            return f"Nothing was changed: {error.problem}"
        ui.notify(told, type="positive" if told == DONE else "warning", close_button="OK", timeout=8000)
        await self.refresh()
        return ""

    def _perform(self, action: Action, actor: str, reason: str) -> str:
        """Does it and says so.

        Raises:
            BadInput: It is not possible, or not any more.
            TransientError: The database is away.
        """
        self._board.changed(self._task)
        if action != "kill":
            self._board.update(self._task, self._span.length)
            look = self._board.look(self._task, self._span.length)
            if place_of(look.rollout, look.plan) != self._asked_at:
                raise BadInput(
                    "nothing was done: the rollout or the route has changed since you opened this",
                    "close it, look again, and decide anew",
                )
        written = perform(self._gateway, self._gateway.tasks[self._task], action, actor, reason)["written"]
        self._board.changed(self._task)
        return DONE if written else UNWRITTEN


DONE = "Done. It is in the audit log."
UNWRITTEN = (
    "Killed at this gateway. The database does not answer: the other gateways hear of it, and the audit log gets it, "
    "when it is back."
)
