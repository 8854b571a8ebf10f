"""Whether this gateway lives, whether it can answer, and its metrics. Nothing here needs a key or tells of a caller."""

import orjson
from fastapi import APIRouter, Request, Response

from finetune_platform.serving.gateway import gateway_of

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    """200 while the process serves requests: what a supervisor restarts by."""
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 when every task can be answered by whom its plan names, else 503 with the reasons: what a balancer asks."""
    gateway = gateway_of(request)
    waiting = {
        served.name: missing
        for served in gateway.tasks.values()
        if (missing := sorted(a for a in gateway.watch.stored_plan(served.name).adapters if not served.is_ready(a)))
    }
    body = {
        "status": "waiting" if waiting else "ready",
        "adapters_not_ready": waiting,
        "routes_age_s": round(gateway.watch.age_s, 3),
    }
    return Response(orjson.dumps(body), 503 if waiting else 200, media_type="application/json")


@router.get("/metrics")
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
