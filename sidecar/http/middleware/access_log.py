"""Measure and log requests."""

from __future__ import annotations

import logging
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.auth.guard import CALLER, NO_CALLER
from sidecar.http.middleware.request_context import ADDRESS
from sidecar.http.operations import OPERATION
from sidecar.http.responses import CLIENT_CLOSED_REQUEST
from sidecar.telemetry.instruments import Instruments

log = structlog.get_logger("access")


def log_requests(instruments: Instruments, *, enabled: bool) -> Middleware:
    """Return the middleware.

    Args:
        instruments: count requests and measure their duration.
        enabled: write one log line per request; of quiet operations only failures are logged.
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
            if enabled and (status >= 400 or not op.quiet):
                _log(request, status, seconds, size)

    return middleware


def _log(request: web.Request, status: int, seconds: float, size: int) -> None:
    log.log(
        logging.ERROR if status >= 500 and status != 503 else logging.INFO,
        "request",
        method=request.method,
        route=request[OPERATION].path,
        path=request.rel_url.raw_path,
        status=status,
        seconds=round(seconds, 6),
        bytes=size,
        caller=request.get(CALLER, NO_CALLER).name,
        address=request[ADDRESS],
    )


def _size(response: web.StreamResponse) -> int:
    """Return the bytes of a response's body, which may not be sent yet."""
    return response.body_length if response.prepared else response.content_length or 0
