"""The audit: one event for each change, and for each attempt that was refused.

No secret is ever a part of one: what a caller has shown is told by the name of the method alone, and of a job its id
and name, never its command or environment.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import structlog
from aiohttp import web

from sidecar.runtime.rate_limiter import RateLimiter, client_key

log = structlog.get_logger("audit")

DETAILS = web.RequestKey("audit", dict[str, Any])

_A_SECOND = 5.0
_AT_ONCE = 20.0


Outcome = Literal["done", "refused", "failed", "abandoned"]
"""done: answered with success; refused: not let in, or not allowed; failed: any other error; abandoned: the caller has
gone before anything was begun, or the server before it was known what came of it."""


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Who did what, from where, to which job, and what came of it."""

    action: str
    """An operation's name, as in openapi.json."""
    outcome: Outcome
    status: int
    caller: str
    method: str
    address: str
    request_id: str
    details: dict[str, Any] = {}
    """What was changed: job, jobs, queue, node, mode ..., by the words of the API."""
    reason: str = ""
    """Why it was refused, or failed."""
    unlogged: int = 0
    """How many events of callers that nobody knows were left out before this one, because there were too many."""


class Audit:
    """Writes the events; a flood of attempts by strangers does not become a flood of log lines."""

    def __init__(self) -> None:
        self._limited = RateLimiter(_A_SECOND, _AT_ONCE)
        self._unlogged = 0

    def write(self, event: AuditEvent, *, limited: bool) -> None:
        """Log one event; limited: only so many of them from each address."""
        if limited:
            if self._limited.acquire(client_key(event.address)):
                self._unlogged += 1
                return
            event = msgspec.structs.replace(event, unlogged=self._unlogged)
            self._unlogged = 0
        log.info("audit", **msgspec.to_builtins(event))


def audit_details(request: web.Request, **details: Any) -> None:
    """Add to what the event of this request will say."""
    request.setdefault(DETAILS, {}).update(details)
