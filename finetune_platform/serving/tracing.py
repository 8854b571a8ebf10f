"""OpenTelemetry: a span of every request and, inside it, one of every arm that was asked; sent by OTLP where it is on.

Callers' `traceparent` headers are followed and passed on to the servers that answer. Spans hold names, ids, counts and
times, never a word of a request.
"""

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from finetune_platform.inference.trace_context import TRACE_HEADERS
from finetune_platform.serving.plan import BASE, Choice

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

TRACED_PATHS = ("/v1/", "/operator/v1/")
"""Health checks and the operator's page would be most of the spans and say nothing."""

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of one gateway.

    Args:
        provider: Where spans go; None makes none, at no cost to a request.
    """

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer: Tracer | None = provider.get_tracer("finetune_platform.serving") if provider else None

    @property
    def is_on(self) -> bool:
        return self._provider is not None

    @property
    def of_requests(self) -> TelemetryConfig:
        """What FastAPI's own telemetry is to do: spans of requests, nothing else."""
        return {
            "tracing": self._provider is not None,
            "tracer_provider": self._provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _not_traced,
        }

    def begin(self, task: str, choice: Choice, interaction_id: str, streamed: bool) -> Span | None:
        """Begins the span of an arm that is asked now, within the span of the request.

        Whatever this context sends to a server from here on tells that span as its parent.
        """
        if self._tracer is None:
            return None
        attributes: dict[str, str | bool] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": task,
            "gen_ai.request.stream": streamed,
            "finetune.task": task,
            "finetune.arm": choice.arm,
            "finetune.adapter": choice.adapter or BASE,
            "finetune.interaction_id": interaction_id,
        }
        span = self._tracer.start_span(f"chat {task}", kind=SpanKind.CLIENT, attributes=attributes)
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, set_span_in_context(span))
        TRACE_HEADERS.set(headers)
        return span

    def stop(self) -> None:
        """Sends what waits; where the collector is away, gives it up after a few seconds."""
        if self._provider is not None:
            self._provider.shutdown()


OFF = Tracing()


def end(span: Span, outcome: str, prompt_tokens: int, completion_tokens: int, status: int | None = None) -> None:
    """Ends the span of an arm.

    Args:
        outcome: How the answer ended (`stop`, `length` …), or why there is none.
        status: The HTTP status that tells of a failure. Its message is not told: servers quote requests in theirs.
    """
    span.set_attribute("finetune.outcome", outcome)
    span.set_attribute("gen_ai.usage.input_tokens", prompt_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", completion_tokens)
    if status is not None:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
    span.end()


def tracing_to(endpoint: str, gateway: str) -> Tracing:
    """Spans to a collector, sent from a thread of their own: a slow or dead one slows no request, its spans are lost.

    Args:
        endpoint: Where an OTLP/HTTP collector takes traces, such as `http://127.0.0.1:4318/v1/traces`; "" for none.
        gateway: This process's name.
    """
    if not endpoint:
        return OFF
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class WithoutQuery(SpanProcessor):
        """FastAPI notes an address's query; no endpoint has one, and nobody knows what a caller puts there."""

        def on_start(self, span: Any, parent_context: Context | None = None) -> None:
            if "url.query" in (span.attributes or {}):
                span.set_attribute("url.query", "")

    ours = Resource.create({"service.name": "finetune-gateway", "service.instance.id": gateway})
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say more than we know.
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(WithoutQuery())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    return Tracing(provider)


def _not_traced(scope: MutableMapping[str, Any]) -> bool:
    return not scope.get("path", "").startswith(TRACED_PATHS)
