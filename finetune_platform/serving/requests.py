"""From bytes to a checked request, and from any refusal to an answer in OpenAI's shape.

Bodies are bounded in size and in the time they may take; nothing of a caller's text reaches the log.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from finetune_platform.inference.chat import EngineError
from finetune_platform.serving.wire import error_body

MAX_BODY_BYTES = 4 * 1024 * 1024
BODY_TIMEOUT_S = 30.0

B = TypeVar("B", bound=BaseModel)


class RequestRefused(Exception):
    """A request that ends here, with what its sender is told."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = error_body(self.status, self.message, self.code, self.param)
        return Response(body, self.status, self.headers, "application/json")


def refusal_of(error: EngineError) -> RequestRefused:
    """An engine's failure as its caller is told."""
    headers = {} if error.retry_after_s is None else {"retry-after": str(max(1, round(error.retry_after_s)))}
    return RequestRefused(error.status, error.message, headers=headers)


async def read_request(request: Request, model: type[B]) -> tuple[B, dict[str, Any]]:
    """A request's body, checked, and as it was sent.

    Raises:
        RequestRefused: Too large, too slow, not JSON, or not what `model` says, with the field and the reason.
    """
    try:
        sent = orjson.loads(await _body(request))
    except orjson.JSONDecodeError as error:
        raise RequestRefused(400, f"the body is not JSON: {error}", "invalid_json") from error
    if not isinstance(sent, dict):
        raise RequestRefused(400, "the body is not a JSON object", "invalid_json")
    try:
        return model.model_validate(sent), sent
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        told = str(first["msg"]).removeprefix("Value error, ")
        raise RequestRefused(400, f"{field}: {told}", "invalid_value", field) from error


async def _body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                pieces.append(piece)
    except ClientDisconnect as error:
        raise RequestRefused(400, "the sender went away in the middle of the body") from error
    except TimeoutError as error:
        raise RequestRefused(408, f"the body took longer than {BODY_TIMEOUT_S:.0f} s to arrive") from error
    return b"".join(pieces)


def _too_large() -> RequestRefused:
    # The rest of the body is not read: the connection must not be used again.
    return RequestRefused(413, f"the body is larger than {MAX_BODY_BYTES} bytes", headers={"connection": "close"})
