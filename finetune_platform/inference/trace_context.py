"""What a request to a server says of the trace that it belongs to: nothing, unless whoever asks an engine sets it.

Making spans belongs to whoever asks.
"""

from collections.abc import Mapping
from contextvars import ContextVar

TRACE_HEADERS: ContextVar[Mapping[str, str] | None] = ContextVar("finetune_trace_headers", default=None)
"""HTTP headers (`traceparent`, `tracestate`) of every request that an engine sends in this context."""
