"""Admit requests: authenticate and authorize the caller, apply limits, and record the use of the instance."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from sidecar.auth.guard import CALLER, Guard
from sidecar.auth.origins import SAFE
from sidecar.http.body import check_head
from sidecar.http.operations import OPERATION
from sidecar.http.streaming import in_chunks
from sidecar.telemetry.logs import ORIGIN, Origin

REFRESH = istr("Flux-Refresh")
"""Header of a page's script that refreshes the page, without the user."""


class InstanceUse(Protocol):
    """Records the use of the instance, which postpones an idle stop."""

    def used(self) -> None:
        """Record a use that is over."""

    def in_use(self) -> AbstractContextManager[None]:
        """Return a context manager that counts a request as use while it is in progress."""


def admit_requests(guard: Guard, use: InstanceUse) -> Middleware:
    """Return the middleware.

    Args:
        guard: admits requests.
        use: records the use of the instance: of a stream its start, of any other request its whole time.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if response := guard.origins.preflight(request):
            return response
        op = request[OPERATION]
        # First of all: an unauthenticated client must not learn which paths exist.
        request[CALLER] = await guard.authorize(request, op.scope)
        if op.scope is not None and (admitted := ORIGIN.get()):
            ORIGIN.set(Origin(admitted.request_id, admitted.trace_id, admitted.span_id))
        check_head(request)
        if op.scope is None:
            return await in_chunks(request, await handler(request))
        # Only admitted requests count as use: neither scanners nor an open browser tab keep the instance running.
        counts = op.use and not (request.method in SAFE and REFRESH in request.headers)
        if counts and op.stream:
            use.used()
        with (
            use.in_use() if counts and not op.stream else nullcontext(),
            guard.admit_request(request, op.scope, stream=op.stream),
        ):
            return await in_chunks(request, await handler(request))

    return middleware
