"""Traces, for who runs a collector: a span for each request, and in it one for each request to Flux.

An extra (``pip install 'flux-sidecar[tracing]'``), and off unless OpenTelemetry's own variables ask for it; what they
say of exporters, samplers and resources is left to its SDK. While it is off nothing of it is loaded.
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
    """Begins spans.

    Args:
        exporter: as in OTEL_TRACES_EXPORTER: ``otlp`` (over HTTP) or ``console``.
        service: name of the service; empty when the variables name it.

    Raises:
        ImportError: the extra is not installed.
        ValueError: there is no such exporter.
    """

    def __init__(self, exporter: str, service: str = _SERVICE) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

        chosen: SpanExporter
        if exporter == "console":
            chosen = ConsoleSpanExporter()
        elif exporter == "otlp":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            chosen = OTLPSpanExporter()
        else:
            raise ValueError(f"OTEL_TRACES_EXPORTER: unknown exporter {exporter!r}; use otlp or console.")
        named = {"service.name": service} if service else {}
        self._provider = TracerProvider(
            resource=Resource.create({**named, "service.version": sidecar.__version__}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(chosen))
        self._tracer: Tracer = self._provider.get_tracer("flux_sidecar", sidecar.__version__)

    def close(self) -> None:
        """Send what is left; may take some seconds where the collector does not answer."""
        self._provider.shutdown()

    @contextmanager
    def request(self, method: str, path: str, route: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """Span a request; its parent is the caller's span, where one is named (W3C traceparent)."""
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
        """Span a request to Flux; its error is noted on it."""
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
        """What the caller's is to be replaced by: what is done for the request is done in this span."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def answered(self, status: int) -> None:
        """Note what came of it; what the caller has done wrong is no error of the server."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)
