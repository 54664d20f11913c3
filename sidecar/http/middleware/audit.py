"""Audit changes, and attempts that were refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.auth.guard import CALLER, NO_CALLER
from sidecar.auth.origins import SAFE
from sidecar.domain.errors import Denied, Problem
from sidecar.http.audit import DETAILS, Audit, AuditEvent, Outcome, audit_details
from sidecar.http.middleware.request_context import ADDRESS, REQUEST_ID
from sidecar.http.operations import OPERATION
from sidecar.http.responses import CLIENT_CLOSED_REQUEST, RESPONSE_HEADERS
from sidecar.http.routing import COMMAND

PROBLEM = web.RequestKey("problem", Problem)
"""The error that a request was answered with."""

_REFUSALS = frozenset({401, 403, 421, 429})
_NAMES = {"uid": "job", "id": "job"}  # audit fields of path variables with another name
_MAX_TEXT = 100  # characters
_MAX_PATH = 200


def audit_requests(count_refusal: Callable[..., None]) -> Middleware:
    """Return the middleware.

    Args:
        count_refusal: called with the status of each refusal, and ``denied=True`` for a login that failed.
    """
    trail = Audit()

    def record(request: web.Request, status: int, problem: Problem | None) -> None:
        caller = request.get(CALLER, NO_CALLER)
        denied = isinstance(problem, Denied)
        refused = denied or status in _REFUSALS
        if refused:
            count_refusal(status, denied=denied)
        trail.write(_event(request, status, problem, refused=refused), limited=refused or caller is NO_CALLER)

    def record_when_done(request: web.Request) -> None:
        """Record the outcome of a command after its caller disconnected: a started command runs to its end."""
        command = request.get(COMMAND)
        if command is None:
            record(request, CLIENT_CLOSED_REQUEST, None)
            return

        def done(task: asyncio.Future[web.StreamResponse]) -> None:
            audit_details(request, abandoned=True)
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if isinstance(error, Problem):
                record(request, error.status, error)
            elif error is None:
                record(request, task.result().status, None)
            else:
                record(request, CLIENT_CLOSED_REQUEST, None)

        command.add_done_callback(done)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except asyncio.CancelledError:  # the client disconnected
            if request.method not in SAFE:
                record_when_done(request)
            raise
        if request.method not in SAFE or response.status in _REFUSALS:
            record(request, response.status, request.get(PROBLEM))
        return response

    return middleware


def _event(request: web.Request, status: int, problem: Problem | None, *, refused: bool) -> AuditEvent:
    caller = request.get(CALLER, NO_CALLER)
    variables = {_NAMES.get(name, name): text[:_MAX_TEXT] for name, text in request.match_info.items()}
    audit_details(request, **variables)
    details: dict[str, Any] = request.get(DETAILS, {})
    return AuditEvent(
        action=request[OPERATION].name or f"{request.method} {request.path[:_MAX_PATH]}",
        outcome="refused" if refused else _outcome(status),
        status=status,
        caller=details.pop("caller", caller.name),
        method=caller.method,
        address=request[ADDRESS],
        request_id=request[RESPONSE_HEADERS][REQUEST_ID],
        details=details,
        # The detail of an error may quote a part of the request, which may be a secret.
        reason="" if problem is None else problem.detail if refused else problem.title,
    )


def _outcome(status: int) -> Outcome:
    return "abandoned" if status == CLIENT_CLOSED_REQUEST else "done" if status < 400 else "failed"
