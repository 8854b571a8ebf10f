"""Whether this gateway lives, whether it can answer, and its metrics. Nothing here needs a key or tells of a caller."""

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from finetune_platform.serving.documented import Alive, Ready, answers
from finetune_platform.serving.gateway import gateway_of

router = APIRouter()

READY = answers(Ready, "Every champion is ready.")


@router.get("/healthz", responses=answers(Alive, "It serves."))
async def healthz() -> Response:
    """200 while the process serves requests: what a supervisor restarts by."""
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get("/readyz", responses={**READY, 503: {"model": Ready, "description": "A champion is not ready here."}})
async def readyz(request: Request) -> Response:
    """What a balancer asks: 503 while a champion is not ready here, so that others answer for it; 200 else.

    Other adapters that are not ready, a canary's broken bundle for one, are listed with the reason: the champion
    answers in their place, and no gateway should leave the balancer for them.
    """
    gateway = gateway_of(request)
    plans = {served.name: gateway.watch.stored_plan(served.name) for served in gateway.tasks.values()}
    missing = {
        served.name: found
        for served in gateway.tasks.values()
        if (found := sorted(a for a in plans[served.name].adapters if not served.is_ready(a)))
    }
    waiting = any(plans[task].champion in adapters for task, adapters in missing.items())
    body = {
        "status": "waiting" if waiting else "ready",
        "adapters_not_ready": missing,
        "reasons": gateway.fleet.failures,
        "routes_age_s": round(gateway.watch.age_s, 3),
    }
    return Response(orjson.dumps(body), 503 if waiting else 200, media_type="application/json")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """For Prometheus. Its labels name tasks and adapters: keep it from the outside at the reverse proxy."""
    gateway = gateway_of(request)
    gateway.metrics.routes_age.set(gateway.watch.age_s)
    gateway.metrics.shadow_dropped.set(gateway.shadow.dropped)
    figures = gateway.log.figures()
    gateway.metrics.log_lost.set(figures.refused)
    gateway.metrics.log_waiting.set(figures.waiting_bytes)
    gateway.metrics.log_flushing.set(figures.flushing)
    return Response(gateway.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
