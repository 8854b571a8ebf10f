"""OpenTelemetry: a span of every request and, inside it, one of every arm that was asked; sent by OTLP where it is on.

Callers' `traceparent` headers are followed. Spans hold names, ids, counts and times, never a word of a request.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

OFF: Mapping[str, Any] = {"tracing": False, "metrics": False, "logs": False}


def provider_of(endpoint: str, gateway: str) -> TracerProvider | None:
    """Where spans go; None where tracing is off.

    Args:
        endpoint: An OTLP/HTTP collector's address, such as `http://127.0.0.1:4318/v1/traces`; "" for none.
        gateway: This process's name.
    """
    if not endpoint:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return provider_with(OTLPSpanExporter(endpoint=endpoint), gateway)


def provider_with(exporter: SpanExporter, gateway: str) -> TracerProvider:
    """A provider that sends to an exporter from a thread of its own: a slow collector slows no request."""
    resource = Resource.create({"service.name": "finetune-gateway", "service.instance.id": gateway})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def tracer_of(provider: TracerProvider | None) -> trace.Tracer:
    """Makes the spans of arms; of an absent provider, ones that cost and do nothing."""
    return trace.NoOpTracer() if provider is None else provider.get_tracer("finetune_platform.serving")


def fastapi_options(provider: TracerProvider | None) -> dict[str, Any]:
    """What FastAPI's own telemetry is to do: spans of requests, nothing else."""
    return dict(OFF) if provider is None else {**OFF, "tracing": True, "tracer_provider": provider}
