"""Measure and log requests."""

from __future__ import annotations

import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.auth.guard import CALLER, NO_CALLER
from sidecar.http.middleware.request_context import ADDRESS
from sidecar.http.operations import OPERATION
from sidecar.http.responses import CLIENT_CLOSED_REQUEST
from sidecar.telemetry.access_log import AccessLog, RequestLine
from sidecar.telemetry.instruments import Instruments


def log_requests(instruments: Instruments, access_log: AccessLog) -> Middleware:
    """Return the middleware.

    Args:
        instruments: count requests and measure their duration.
        access_log: write one line per request; of quiet operations only failures are logged.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        op = request[OPERATION]
        started, status, size = time.perf_counter(), CLIENT_CLOSED_REQUEST, 0
        instruments.start_request(op.path, stream=op.stream)
        try:
            response = await handler(request)
            status, size = response.status, _size(response)
            return response
        finally:
            seconds = time.perf_counter() - started
            instruments.end_request(request.method, op.path, status, seconds, stream=op.stream)
            if access_log.enabled and (status >= 400 or not op.quiet):
                access_log.write(_line(request, status, seconds, size))

    return middleware


def _line(request: web.Request, status: int, seconds: float, size: int) -> RequestLine:
    return RequestLine(
        request.method,
        request[OPERATION].path,
        request.rel_url.raw_path,
        status,
        round(seconds, 6),
        size,
        request.get(CALLER, NO_CALLER).name,
        request[ADDRESS],
    )


def _size(response: web.StreamResponse) -> int:
    """Return the bytes of a response's body, which may not be sent yet."""
    return response.body_length if response.prepared else response.content_length or 0
