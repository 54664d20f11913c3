"""OpenTelemetry traces: a span for each request, and within it one for each RPC to Flux.

Tracing is an extra (``pip install 'flux-sidecar[tracing]'``), enabled by OpenTelemetry's own variables; exporters,
samplers and resources are configured by its SDK. While it is disabled, none of its modules is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sidecar

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_SERVICE = "flux-sidecar"


class Tracing:
    """Open spans.

    Args:
        exporter: as in OTEL_TRACES_EXPORTER: ``otlp`` (over HTTP) or ``console``.
        service: service name; empty if the variables set it.

    Raises:
        ImportError: the extra is not installed.
        ValueError: the exporter is unknown.
    """

    def __init__(self, exporter: str, service: str = _SERVICE) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

        span_exporter: SpanExporter
        if exporter == "console":
            span_exporter = ConsoleSpanExporter()
        elif exporter == "otlp":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            span_exporter = OTLPSpanExporter()
        else:
            raise ValueError(f"OTEL_TRACES_EXPORTER: unknown exporter {exporter!r}; use otlp or console.")
        named = {"service.name": service} if service else {}
        self._provider = TracerProvider(
            resource=Resource.create({**named, "service.version": sidecar.__version__}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(span_exporter))
        self._tracer: Tracer = self._provider.get_tracer("flux_sidecar", sidecar.__version__)

    def close(self) -> None:
        """Export the remaining spans; may take some seconds if the collector does not respond."""
        self._provider.shutdown()

    @contextmanager
    def request(self, method: str, path: str, route: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """Open a span for a request; its parent is the caller's span, if the request has one (W3C traceparent)."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({name.lower(): value for name, value in headers.items()})
        attributes = {"http.request.method": method, "url.path": path, "http.route": route}
        with self._tracer.start_as_current_span(
            f"{method} {route}".strip(),
            parent,
            SpanKind.SERVER,
            {name: text for name, text in attributes.items() if text},
        ) as span:
            yield RequestSpan(span)

    @contextmanager
    def rpc(self, topic: str) -> Iterator[None]:
        """Open a span for an RPC to Flux; an exception is recorded on it."""
        from opentelemetry.trace import SpanKind

        attributes = {"rpc.system.name": "flux", "rpc.method": topic}
        with self._tracer.start_as_current_span(f"flux {topic}", kind=SpanKind.CLIENT, attributes=attributes):
            yield


class RequestSpan:
    """The span of one request."""

    def __init__(self, span: Span) -> None:
        self._span: Any = span

    @property
    def traceparent(self) -> str:
        """The ``traceparent`` of this span, which replaces the caller's: what the request causes belongs to it."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def set_status(self, status: int) -> None:
        """Record the status of the response; only a failure of the server is an error of the span."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)
