"""Trace requests (OpenTelemetry)."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.http.middleware.request_context import TRACEPARENT
from sidecar.http.operations import find_operation
from sidecar.telemetry.tracing import Tracing


def trace_requests(tracer: Tracing) -> Middleware:
    """Return the middleware that opens a span per request."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = find_operation(request).path
        with tracer.request(request.method, request.path, route, request.headers) as span:
            request[TRACEPARENT] = span.traceparent
            response = await handler(request)
            span.set_status(response.status)
            return response

    return middleware
