"""The sign-in page, plain HTML without a script: it works before anything of the pages' framework is loaded."""

import asyncio
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from finetune_platform.serving.callers import Refused
from finetune_platform.serving.site.gate import HEADERS, kept_query
from finetune_platform.serving.site.guesses import WRONG_S, Guesses
from finetune_platform.serving.site.sessions import LASTS_S, Sessions
from finetune_platform.serving.site.site import Site
from finetune_platform.serving.site.templates import Templates

MOST_BYTES = 16 * 1024
BODY_TIMEOUT_S = 10.0
SAME_SITE = ("same-origin", "none", "")
ENDED = "You were signed out: the key was revoked, it expired, or twelve hours are over."
NOT_VALID = "This key or token is not valid. Check that it is complete, and neither revoked nor expired."
TEMPLATES = Templates()


def signing_in(site: Site, sessions: Sessions, guesses: Guesses) -> APIRouter:
    """The routes by which people come and go.

    Args:
        site: Where to.
        sessions: Its sessions.
        guesses: Shared by all sites: an address does not get more tries by trying at more doors.
    """
    router = APIRouter(prefix=site.path, include_in_schema=False)
    words = {401: NOT_VALID, 403: f"This key may not see the page: it needs the role {site.roles}."}

    def form(request: Request, message: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        action = site.login + kept_query(request.url.query)
        text = TEMPLATES.fragment("login", site=site, action=action, message=message)
        return HTMLResponse(text, status, {**HEADERS, "cache-control": "no-store", **(headers or {})})

    def entered(request: Request) -> Response:
        to = request.query_params.get("to", "")
        task = {name: value for name, value in request.query_params.items() if name == "task"}
        place = site.path + (to if site.has(to) else site.pages[0])
        return RedirectResponse(f"{place}?{urlencode(task)}" if task else place, 303)

    @router.get("")
    async def without_slash(request: Request) -> Response:
        return entered(request)

    @router.get("/login")
    async def ask(request: Request) -> Response:
        if sessions.of(request.cookies.get(site.cookie)) is not None:
            return entered(request)
        return form(request, ENDED if "ended" in request.query_params else "")

    @router.post("/login")
    async def sign_in(request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "") not in SAME_SITE:
            return form(request, "Sign in on this page itself.", 403)
        address = request.client.host if request.client else ""
        if (wait_s := guesses.wait_s(address)) > 0:
            told = f"Too many wrong keys came from your address. Try again in {wait_s:.0f} s."
            return form(request, told, 429, {"retry-after": f"{wait_s:.0f}"})
        credential = await _credential(request)
        if credential is None:
            return form(request, "Paste a key or a token.", 400)
        try:
            cookie = sessions.begin(credential)
        except Refused as refused:
            if refused.status == 401:
                guesses.wrong(address)
                await asyncio.sleep(WRONG_S)
            return form(request, words.get(refused.status, refused.message), refused.status)
        response = entered(request)
        secure = request.url.scheme == "https"
        response.set_cookie(
            site.cookie, cookie, int(LASTS_S), path=site.path, secure=secure, httponly=True, samesite="lax"
        )
        return response

    @router.post("/logout")
    async def sign_out(request: Request) -> Response:
        if (session := sessions.of(request.cookies.get(site.cookie))) is not None:
            sessions.end(session)
        response = RedirectResponse(site.login, 303)
        response.delete_cookie(site.cookie, path=site.path)
        return response

    return router


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
