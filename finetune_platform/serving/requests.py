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
from finetune_platform.serving.keys import KEY
from finetune_platform.serving.wire import error_body

MAX_BODY_BYTES = 4 * 1024 * 1024
BODY_TIMEOUT_S = 30.0
MAX_DEPTH = 64
"""Of a body's lists and objects in each other: what reads, redacts and sends it on goes down by recursion."""

EXACT = 2**53
"""Up to this, 5.0 is 5: JSON knows one kind of number, engines know two."""

MESSAGE_CHARS = 1000

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
        # Messages name what was asked for, which may be a key in the wrong place, or megabytes.
        self.message = KEY.sub("[key]", message)[:MESSAGE_CHARS]
        self.param = None if param is None else KEY.sub("[key]", param)[:MESSAGE_CHARS]
        self.status, self.code = status, code
        super().__init__(self.message)
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
        body = await _body(request)
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestRefused(400, f"the body is not JSON: {error}", "invalid_json") from error
    if not isinstance(sent, dict):
        raise RequestRefused(400, "the body is not a JSON object", "invalid_json")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(sent) > MAX_DEPTH:
        raise RequestRefused(400, f"the body is nested more than {MAX_DEPTH} deep", "invalid_json")
    for name, value in sent.items():
        if type(value) is float and value.is_integer() and abs(value) <= EXACT:
            sent[name] = int(value)
    try:
        return model.model_validate(sent), sent
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = _place(first["loc"], sent)
        told = str(first["msg"]).removeprefix("Value error, ")
        raise RequestRefused(400, f"{field}: {told}", "invalid_value", field) from error


def _place(location: tuple[int | str, ...], sent: Any) -> str:
    """Where in the body an error is: pydantic also names the kind of value that it tried."""
    parts: list[str] = []
    for number, part in enumerate(location):
        if isinstance(sent, dict) and (part in sent or number == len(location) - 1):
            parts, sent = [*parts, str(part)], sent.get(part)
        elif isinstance(sent, list) and isinstance(part, int):
            parts, sent = [*parts, str(part)], sent[part]
    return ".".join(parts)


def _depth(value: Any) -> int:
    """How many lists and objects stand in each other."""
    depth, level = 0, [value]
    while level:
        inner = (part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer))
        level = [part for part in inner if isinstance(part, dict | list)]
        depth += 1
    return depth


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
