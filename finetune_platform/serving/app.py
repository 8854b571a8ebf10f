"""The FastAPI application: endpoints, error shapes and the OpenAPI document. It holds no state: `Gateway` does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from finetune_platform.serving import chat_api, feedback_api, models_api, operator_api, status_api
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.openai_types import ChatRequest, CompletionRequest, FeedbackRequest
from finetune_platform.serving.operator_api import ActionRequest
from finetune_platform.serving.requests import RequestRefused
from finetune_platform.serving.wire import error_body

TITLE = "finetune_platform gateway"
BODIES = (ChatRequest, CompletionRequest, FeedbackRequest, ActionRequest)
SCHEMAS = "#/components/schemas/"
OPEN_PATHS = ("/healthz", "/readyz", "/metrics")

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "content": {"application/json": {"schema": {"$ref": f"{SCHEMAS}Error"}}}}
    for status, meaning in {
        400: "The request is wrong; `param` names the field.",
        401: "No key, or one that is not known, expired or revoked.",
        403: "The key may not do this.",
        404: "No such model, task or interaction for this key.",
        408: "The body took too long to arrive.",
        409: "Not possible in the present state.",
        413: "The body is too large.",
        429: "Too many requests; `Retry-After` says when to come back.",
        502: "The model's server failed.",
        503: "Nothing is ready to answer.",
        504: "The model took too long.",
    }.items()
}

ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def build_app(gateway: Gateway) -> FastAPI:
    """The application over one gateway, which runs while the application does."""
    # The page's framework is large; whoever needs the error shapes or schemas of this file alone does not load it.
    from finetune_platform.serving.page.mount import mount_operator_page

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    telemetry = gateway.tracing.of_requests
    app = FastAPI(title=TITLE, version="1", lifespan=lifespan, docs_url=None, redoc_url=None, telemetry=telemetry)
    app.state.gateway = gateway
    for part in (chat_api, models_api, feedback_api, operator_api):
        app.include_router(part.router, responses=ERRORS)
    app.include_router(status_api.router)
    app.add_exception_handler(RequestRefused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.openapi = lambda: openapi_of(app)  # type: ignore[method-assign]
    mount_operator_page(app, gateway)
    return app


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; bodies are read by hand, so their schemas are added here."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in BODIES:
            schema = model.model_json_schema(ref_template=SCHEMAS + "{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        schemas["Error"] = ERROR_SCHEMA
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path not in OPEN_PATHS:
                    operation["security"] = [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    request.app.state.gateway.metrics.refused.labels(str(error.status)).inc()
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error_body(error.status_code, str(error.detail))
    return Response(body, error.status_code, error.headers, "application/json")
