"""OpenAI's list of models: one name a task, one an ensemble."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from finetune_platform.serving.documented import SIGNED_IN, Model, ModelList, answers, errors
from finetune_platform.serving.gateway import gateway_of

router = APIRouter()


@router.get("/v1/models", responses={**answers(ModelList, "The models."), **errors(*SIGNED_IN)})
async def models(request: Request) -> Response:
    """The tasks and ensembles that the caller may use, one model each."""
    gateway = gateway_of(request)
    caller = gateway.caller_of(request, "answer")
    data = [_model(name) for name in gateway.models_of(caller)]
    return Response(orjson.dumps({"object": "list", "data": data}), media_type="application/json")


@router.get("/v1/models/{model}", responses={**answers(Model, "The model."), **errors(*SIGNED_IN, 404)})
async def model(request: Request, model: str) -> Response:
    """One of them."""
    gateway = gateway_of(request)
    caller = gateway.caller_of(request, "answer")
    name = model if model in gateway.models_of(caller) else gateway.task_of(caller, model).name
    return Response(orjson.dumps(_model(name)), media_type="application/json")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "finetune_platform"}
