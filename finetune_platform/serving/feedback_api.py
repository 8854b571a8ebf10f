"""What callers say of answers: a vote counts once an interaction, a correction is kept for the labels."""

import asyncio
from datetime import UTC, datetime

import orjson
from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.errors import TransientError
from finetune_platform.serving.callers import Caller
from finetune_platform.serving.documented import ADMITTED, READ, SIGNED_IN, Kept, answers, errors
from finetune_platform.serving.gateway import Gateway, gateway_of
from finetune_platform.serving.interaction_ids import Answered
from finetune_platform.serving.interactions import FeedbackEvent
from finetune_platform.serving.openai_types import FeedbackRequest
from finetune_platform.serving.requests import RequestRefused, read_request
from finetune_platform.serving.tables import FeedbackRow
from finetune_platform.serving.traffic import ArmKey
from finetune_platform.serving.write_ahead import NotLogged

router = APIRouter()


@router.post(
    "/v1/feedback",
    responses={**answers(Kept, "It is kept."), **errors(*SIGNED_IN, *READ, *ADMITTED, 404)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FeedbackRequest"}}},
        }
    },
)
async def feedback(request: Request) -> Response:
    """Takes a rating, a correction or whether an answer was accepted, by its interaction id."""
    gateway = gateway_of(request)
    caller = gateway.caller_of(request, "feedback")
    with gateway.limits.admitted(caller):
        asked, _ = await read_request(request, FeedbackRequest)
        if asked.positive is None:
            raise RequestRefused(400, "say at least one of rating, accepted and correction", "invalid_value")
        names = [served.name for served in gateway.tasks_of(caller)]
        answered = gateway.ids.read(asked.interaction_id, names, caller.tenant)
        if answered is None:
            raise RequestRefused(404, "no interaction has this id", "interaction_not_found", "interaction_id")
        try:
            counted = await asyncio.to_thread(_keep, gateway, caller, asked, answered)
        except NotLogged as error:
            raise RequestRefused(503, "the feedback could not be kept; send it again") from error
    return Response(orjson.dumps({"status": "kept", "counted": counted}), media_type="application/json")


def _keep(gateway: Gateway, caller: Caller, asked: FeedbackRequest, answered: Answered) -> bool:
    event = FeedbackEvent(
        interaction_id=asked.interaction_id,
        timestamp=datetime.now(UTC),
        task=answered.task,
        adapter_id=answered.adapter,
        arm=answered.arm,
        positive=asked.positive,
        accepted=asked.accepted,
        correction=asked.correction,
        comment=asked.comment,
        key_id=caller.key_id,
    )
    gateway.noting.keep(asked.interaction_id)
    gateway.log.record(event, gateway.tasks[answered.task].task.serving.redact).result()
    assert asked.positive is not None  # checked before
    try:
        first = vote(gateway.database, asked.interaction_id, answered, asked.positive)
    except TransientError:
        # What was said is kept in the log; only the count of the moment misses it.
        return False
    if first:
        gateway.traffic.rated(ArmKey(answered.task, answered.adapter, answered.arm), asked.positive)
    return first


def vote(database: Database, interaction_id: str, answered: Answered, positive: bool) -> bool:
    """Keeps the last word on an interaction; True for the first one."""
    with database.session() as session:
        serialize(session.connection())
        return _vote(session, interaction_id, answered, positive)


def _vote(session: Session, interaction_id: str, answered: Answered, positive: bool) -> bool:
    row = session.get(FeedbackRow, interaction_id)
    if row is not None:
        row.positive = positive
        return False
    session.add(
        FeedbackRow(
            interaction_id=interaction_id,
            task=answered.task,
            adapter_id=answered.adapter,
            arm=answered.arm,
            positive=positive,
        )
    )
    return True
