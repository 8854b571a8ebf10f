"""The sign-in page, plain HTML without a script: it works before anything of the page's framework is loaded."""

import asyncio
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from finetune_platform.serving.callers import Refused
from finetune_platform.serving.page.fragments import fragment
from finetune_platform.serving.page.gate import HEADERS, LOGIN, PATH
from finetune_platform.serving.page.guesses import WRONG_S, Guesses
from finetune_platform.serving.page.sessions import COOKIE, LASTS_S, Sessions

MOST_BYTES = 16 * 1024
BODY_TIMEOUT_S = 10.0
SAME_SITE = ("same-origin", "none", "")
ENDED = "You were signed out: the key was revoked, it expired, or twelve hours are over."

WORDS = {
    401: "This key or token is not valid. Check that it is complete, and neither revoked nor expired.",
    403: "This key may not see the page: it needs the role operator, or auditor to look without changing anything.",
}


def signing_in(sessions: Sessions, guesses: Guesses) -> APIRouter:
    """The routes by which people come and go."""
    router = APIRouter(prefix=PATH, include_in_schema=False)

    @router.get("")
    async def without_slash(request: Request) -> Response:
        return RedirectResponse(f"{PATH}/" + (f"?{request.url.query}" if request.url.query else ""), 303)

    @router.get("/login")
    async def ask(request: Request) -> Response:
        if sessions.of(request.cookies.get(COOKIE)) is not None:
            return RedirectResponse(_page(request), 303)
        return _form(request, ENDED if "ended" in request.query_params else "")

    @router.post("/login")
    async def sign_in(request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "") not in SAME_SITE:
            return _form(request, "Sign in on this page itself.", 403)
        address = request.client.host if request.client else ""
        if (wait_s := guesses.wait_s(address)) > 0:
            told = f"Too many wrong keys came from your address. Try again in {wait_s:.0f} s."
            return _form(request, told, 429, {"retry-after": f"{wait_s:.0f}"})
        credential = await _credential(request)
        if credential is None:
            return _form(request, "Paste a key or a token.", 400)
        try:
            cookie = sessions.begin(credential)
        except Refused as refused:
            if refused.status == 401:
                guesses.wrong(address)
                await asyncio.sleep(WRONG_S)
            return _form(request, WORDS.get(refused.status, refused.message), refused.status)
        response = RedirectResponse(_page(request), 303)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, cookie, int(LASTS_S), path=PATH, secure=secure, httponly=True, samesite="lax")
        return response

    @router.post("/logout")
    async def sign_out(request: Request) -> Response:
        if (session := sessions.of(request.cookies.get(COOKIE))) is not None:
            sessions.end(session)
        response = RedirectResponse(LOGIN, 303)
        response.delete_cookie(COOKIE, path=PATH)
        return response

    return router


def _page(request: Request) -> str:
    task = request.query_params.get("task")
    return f"{PATH}/?{urlencode({'task': task})}" if task else f"{PATH}/"


def _form(request: Request, message: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    task = request.query_params.get("task")
    action = f"{LOGIN}?{urlencode({'task': task})}" if task else LOGIN
    text = fragment("login", action=action, message=message)
    return HTMLResponse(text, status, {**HEADERS, "cache-control": "no-store", **(headers or {})})


async def _credential(request: Request) -> str | None:
    """What the form holds; None where that is nothing, too much, or too slow in coming."""
    pieces = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                pieces += piece
                if len(pieces) > MOST_BYTES:
                    return None
    except TimeoutError:
        return None
    found = parse_qs(pieces.decode("utf-8", "replace")).get("credential", [""])[0].strip()
    return found.removeprefix("Bearer ").strip() or None
