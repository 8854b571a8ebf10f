"""The dialog before every change: what will happen, and the reason that goes into the audit log."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from finetune_platform.serving.page.offers import Offer

MOST_CHARACTERS = 2000

Confirmed = Callable[[Offer, str], Awaitable[str]]
"""Does what was offered for a reason; what it returns went wrong and is shown, "" closes the dialog."""


class ActionDialog:
    """One dialog for all buttons of a page.

    Args:
        task: Whose buttons.
        confirmed: Called when a person has given a reason and confirmed.
    """

    def __init__(self, task: str, confirmed: Confirmed) -> None:
        self._task, self._confirmed = task, confirmed
        self._offer: Offer | None = None
        with ui.dialog() as self._dialog, ui.element("div").classes("dialog") as box:
            box.props('role=document aria-labelledby="action-title"')
            self._title = ui.label().classes("title").props('id="action-title"')
            self._consequence = ui.label().classes("consequence")
            self._reason = ui.textarea("Why? It goes into the audit log", on_change=self._typed)
            self._reason.props(f"outlined autogrow autofocus maxlength={MOST_CHARACTERS}").classes("reason")
            self._problem = ui.label().classes("problem").props("role=alert")
            with ui.element("div").classes("buttons"):
                cancel = ui.button("Cancel", on_click=self._dialog.close, color=None)
                cancel.props("unelevated no-caps").classes("plain")
                self._confirm = ui.button("", on_click=self._press, color=None).props("unelevated no-caps")

    def ask(self, offer: Offer, dangerous: bool) -> None:
        """Opens it for one button."""
        self._offer = offer
        self._title.set_text(f"{offer.label}: {self._task}")
        self._consequence.set_text(offer.consequence)
        self._reason.set_value("")
        self._problem.set_text("")
        self._confirm.set_text(offer.label)
        self._confirm.classes(replace="danger" if dangerous else "main").disable()
        self._dialog.open()

    def _typed(self) -> None:
        self._confirm.set_enabled(bool((self._reason.value or "").strip()))

    async def _press(self) -> None:
        reason = (self._reason.value or "").strip()
        if self._offer is None or not reason:
            return
        self._confirm.disable()
        self._problem.set_text("")
        problem = await self._confirmed(self._offer, reason)
        self._confirm.enable()
        if problem:
            self._problem.set_text(problem)
        else:
            self._dialog.close()
