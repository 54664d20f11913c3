"""The middlewares of every request, outermost first.

=================== ==================================================================================
``tracing``         a span per request; only where traces are exported
``request_context`` the operation, request ID, origin of log lines, and headers of all responses
``access_log``      metrics, and one log line per request
``audit``           an audit event per change and per refusal
``problems``        exceptions as responses: problem details for programs, pages for people
``admission``       authentication, authorization, limits
=================== ==================================================================================

:class:`sidecar.http.routing.Router` puts them around each handler: a middleware then costs a request 0.2 µs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aiohttp.typedefs import Middleware

from sidecar.auth.guard import Guard
from sidecar.http.middleware.access_log import log_requests
from sidecar.http.middleware.admission import InstanceUse, admit_requests
from sidecar.http.middleware.audit import audit_requests
from sidecar.http.middleware.problems import ErrorPages, answer_errors
from sidecar.http.middleware.request_context import set_context
from sidecar.http.middleware.tracing import trace_requests
from sidecar.telemetry.access_log import AccessLog
from sidecar.telemetry.instruments import Instruments


class Hooks(NamedTuple):
    """What the middlewares need from parts of the server that HTTP mechanics do not import."""

    connection: Callable[[], str]
    """Return the state of the connection to the instance; "ready": its data is up to date."""
    use: InstanceUse
    """Records the use of the instance."""
    pages: ErrorPages
    """Render errors for people."""


def chain(guard: Guard, instruments: Instruments, hooks: Hooks, access_log: AccessLog) -> list[Middleware]:
    """Return the middlewares of an application.

    Args:
        guard: admits requests.
        instruments: count requests and refusals.
        hooks: to other parts of the server.
        access_log: write one line per request.
    """
    tracer = instruments.tracing
    return [
        *([trace_requests(tracer)] if tracer else []),
        set_context(guard.origins, hooks.connection),
        log_requests(instruments, access_log),
        audit_requests(instruments.count_refusal),
        answer_errors(hooks.pages),
        admit_requests(guard, hooks.use),
    ]
