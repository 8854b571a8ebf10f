"""The FastAPI application: endpoints, error shapes and the OpenAPI document. It holds no state: `Gateway` does."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from finetune_platform.errors import TransientError
from finetune_platform.serving import chat_api, feedback_api, models_api, operator_api, status_api
from finetune_platform.serving.direct_path import DirectPath, Told
from finetune_platform.serving.gateway import Gateway
from finetune_platform.serving.openai_types import ChatRequest, CompletionRequest, FeedbackRequest
from finetune_platform.serving.operator_api import ActionRequest
from finetune_platform.serving.requests import RequestRefused
from finetune_platform.serving.site.site import Site
from finetune_platform.serving.wire import error_body

TITLE = "finetune_platform gateway"
BODIES = (ChatRequest, CompletionRequest, FeedbackRequest, ActionRequest)
SCHEMAS = "#/components/schemas/"
OPEN_PATHS = ("/healthz", "/readyz", "/metrics")


def build_app(gateway: Gateway, sites: Sequence[Site] = ()) -> FastAPI:
    """The application over one gateway, which runs while the application does.

    Args:
        gateway: Which.
        sites: Places for people beside the operator's page, from packages that know more than this one.
    """
    # The pages' framework is large; whoever needs the error shapes or schemas of this file alone does not load it.
    from finetune_platform.serving.page.operator_site import operator_site
    from finetune_platform.serving.site.mounting import mount_sites

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = FastAPI(
        title=TITLE,
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=gateway.tracing.of_requests,
        # A redirect would go to whatever host the request named.
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    for part in (chat_api, models_api, feedback_api, operator_api, status_api):
        app.include_router(part.router)
    for kind, told in TOLD.items():
        app.add_exception_handler(kind, told)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _no_such_place)
    app.add_exception_handler(Exception, _broken)
    app.openapi = lambda: openapi_of(app)  # type: ignore[method-assign]
    mount_sites(app, gateway, [operator_site(gateway), *sites])
    return app


def in_front_of(app: FastAPI) -> ASGIApp:
    """What a server runs: the application, with a short way to its busiest endpoints.

    Where requests are traced there is none: their spans are the framework's.
    """
    gateway: Gateway = app.state.gateway
    return app if gateway.tracing.is_on else DirectPath(app, chat_api.ENDPOINTS, TOLD, _broken)


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; bodies are read by hand, so their schemas are added here."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in BODIES:
            schema = model.model_json_schema(ref_template=SCHEMAS + "{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # What the framework finds wrong with a path is a 404 here.
                if path not in OPEN_PATHS:
                    operation["security"] = [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    request.app.state.gateway.metrics.refused.labels(str(error.status)).inc()
    return error.response()


async def _no_such_place(request: Request, error: Exception) -> Response:
    """Only paths are left to the framework to check."""
    return await _refused(request, RequestRefused(404, "there is no such task, model or action"))


async def _away(request: Request, error: Exception) -> Response:
    assert isinstance(error, TransientError)
    return await _refused(request, RequestRefused(503, error.problem))


async def _broken(request: Request, error: Exception) -> Response:
    """A bug: the framework logs it, the caller is told nothing of it."""
    return Response(error_body(500, "the gateway failed"), 500, None, "application/json")


TOLD: dict[type[Exception], Told] = {RequestRefused: _refused, TransientError: _away}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error_body(error.status_code, str(error.detail))
    return Response(body, error.status_code, error.headers, "application/json")
