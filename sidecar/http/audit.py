"""Audit events: one for each change, and for each attempt that was refused.

An event contains no secret: of a credential only the name of its authentication method, and of a job its ID and name,
never its command or environment.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import structlog
from aiohttp import web

from sidecar.runtime.rate_limiter import RateLimiter, client_key

log = structlog.get_logger("audit")

DETAILS = web.RequestKey("audit", dict[str, Any])
"""What handlers add to the event of a request."""

_PER_SECOND = 5.0
_BURST = 20.0

Outcome = Literal["done", "refused", "failed", "abandoned"]
"""done: succeeded; refused: not authenticated or not authorized; failed: any other error; abandoned: the caller
disconnected before the command started, or the server stopped before its result was known."""


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A change or a refused attempt: the caller, the address, the job, and the outcome."""

    action: str
    """Name of the operation, as in openapi.json."""
    outcome: Outcome
    status: int
    caller: str
    method: str
    address: str
    request_id: str
    details: dict[str, Any] = {}
    """What was changed: job, jobs, queue, node, mode ..., in the terms of the API."""
    reason: str = ""
    """Why it was refused or failed."""
    unlogged: int = 0
    """Events of unauthenticated clients that were omitted before this one because there were too many."""


class Audit:
    """Writes audit events; limits those of unauthenticated clients, which could flood the log."""

    def __init__(self) -> None:
        self._limiter = RateLimiter(_PER_SECOND, _BURST)
        self._unlogged = 0

    def write(self, event: AuditEvent, *, limited: bool) -> None:
        """Log an event; ``limited``: within the rate of its address."""
        if limited:
            if self._limiter.acquire(client_key(event.address)):
                self._unlogged += 1
                return
            event = msgspec.structs.replace(event, unlogged=self._unlogged)
            self._unlogged = 0
        log.info("audit", **msgspec.to_builtins(event))


def audit_details(request: web.Request, **details: Any) -> None:
    """Add details to the audit event of a request."""
    request.setdefault(DETAILS, {}).update(details)
