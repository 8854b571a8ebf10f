"""The operator's page as a site of the gateway's application, at `/operator`."""

from fastapi import Request, Response
from nicegui import ui

from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.page.board import Board
from finetune_platform.serving.page.fragments import head_html
from finetune_platform.serving.page.operator_page import OperatorPage
from finetune_platform.serving.site.mounting import visit_of
from finetune_platform.serving.site.site import Site


def operator_site(gateway: Gateway) -> Site:
    """The page of a gateway.

    Args:
        gateway: What the page shows and changes.
    """
    return Site(
        path="/operator",
        title="Operator",
        purpose="See what serves, take the next step, roll back, kill.",
        needed="read_status",
        role="operator",
        roles="operator, or auditor to look without changing anything",
        pages=("/",),
        content=(gateway, Board(gateway)),
        answered_apart="v1/",
    )


@ui.page("/", title="Operator")
async def operator(request: Request, task: str = "") -> Response | None:
    """The page, or what stands in its place for those who may not see it."""
    visit = visit_of(request)
    if isinstance(visit, Response):
        return visit
    gateway, board = visit.site.content
    ui.add_head_html(head_html())
    page = OperatorPage(gateway, board, visit.sessions, visit.session, task if task in visit.tasks else visit.tasks[0])
    page.build()
    await page.refresh()
    return None
