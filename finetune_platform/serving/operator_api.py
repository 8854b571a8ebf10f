"""What an operator does over HTTP: see routes, rollouts and history; step, hold, abort, roll back, kill and the like.

The command line and the operator's page do the same through the same functions.
"""

import asyncio
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from finetune_platform.errors import BadInput
from finetune_platform.serving import rollouts
from finetune_platform.serving.arm_comparison import comparison_of
from finetune_platform.serving.callers import Caller
from finetune_platform.serving.documented import READ, SIGNED_IN, Done, History, SideBySide, Tasks, answers, errors
from finetune_platform.serving.gateway import Gateway, gateway_of
from finetune_platform.serving.overview import history_of, overview_of
from finetune_platform.serving.requests import RequestRefused, read_request
from finetune_platform.serving.served_task import ServedTask

router = APIRouter(prefix="/operator/v1")

Action = Literal["step", "hold", "resume", "abort", "rollback", "demote", "kill", "revive"]


class ActionRequest(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field(min_length=1, max_length=2000, json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"})

    @field_validator("reason")
    @classmethod
    def can_be_stored(cls, reason: str) -> str:
        if "\0" in reason or not reason.strip():
            raise ValueError("say why, in words")
        return reason


@router.get("/tasks", responses={**answers(Tasks, "The tasks."), **errors(*SIGNED_IN)})
async def tasks(request: Request) -> Response:
    """Every task that the caller may use: route, rollout, traffic of the last hour."""
    gateway = gateway_of(request)
    caller = gateway.caller_of(request, "read_status")
    found = await asyncio.to_thread(_overviews, gateway, caller)
    return _json({"tasks": found})


@router.get("/tasks/{task}/history", responses={**answers(History, "Oldest first."), **errors(*SIGNED_IN, 404)})
async def history(request: Request, task: str) -> Response:
    """Which adapter served what share when."""
    gateway = gateway_of(request)
    served = gateway.task_of(gateway.caller_of(request, "read_status"), task)
    return _json({"task": task, "history": await asyncio.to_thread(history_of, gateway.database, served.name)})


@router.get(
    "/tasks/{task}/comparison",
    responses={**answers(SideBySide, "Both sides and their differences."), **errors(*SIGNED_IN, 404, 409)},
)
async def compare(request: Request, task: str) -> Response:
    """The sides of the task's A/B test, or canary and champion, with confidence sequences of their differences."""
    gateway = gateway_of(request)
    served = gateway.task_of(gateway.caller_of(request, "read_status"), task)
    try:
        return _json(await asyncio.to_thread(comparison_of, gateway.database, served.task))
    except BadInput as error:
        raise RequestRefused(409, f"{error.problem}; {error.mend}", "not_possible") from error


@router.post(
    "/tasks/{task}/{action}",
    responses={**answers(Done, "It is done."), **errors(*SIGNED_IN, *READ, 404, 409)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ActionRequest"}}},
        }
    },
)
async def act(request: Request, task: str, action: Action) -> Response:
    """Changes what serves a task; the reason goes into the audit log."""
    gateway = gateway_of(request)
    caller = gateway.caller_of(request, "change_routes")
    served = gateway.task_of(caller, task)
    asked, _ = await read_request(request, ActionRequest)
    try:
        told = await asyncio.to_thread(perform, gateway, served, action, caller.actor, asked.reason)
    except BadInput as error:
        raise RequestRefused(409, f"{error.problem}; {error.mend}", "not_possible") from error
    return _json({"task": task, "action": action, **told})


def perform(gateway: Gateway, served: ServedTask, action: Action, actor: str, reason: str) -> dict[str, Any]:
    """Does it, and has this gateway hear of it at once.

    Raises:
        BadInput: It is not possible in the present state.
        TransientError: The database is away (a kill takes effect on this gateway all the same).
    """
    if action == "kill":
        written = gateway.watch.kill(served.name, actor, reason)
        return {"written": written}
    if action == "revive":
        gateway.watch.revive(served.name, actor, reason)
    elif action == "demote":
        rollouts.demote(gateway.database, served.name, actor=actor, reason=reason)
    else:
        rollouts.by_hand(gateway.database, served.task, action, actor=actor, reason=reason)
    gateway.watch.look()
    return {"written": True}


def _overviews(gateway: Gateway, caller: Caller) -> list[dict[str, Any]]:
    return [overview_of(gateway.database, served.task) for served in gateway.tasks_of(caller)]


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), media_type="application/json")
