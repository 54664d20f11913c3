"""Set what all other middlewares and handlers read from a request: its operation, IDs, address and response headers."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from sidecar.auth.origins import Origins
from sidecar.http.operations import OPERATION, find_operation
from sidecar.http.responses import RESPONSE_HEADERS, add_headers
from sidecar.http.whole import WholeResponse
from sidecar.telemetry.logs import ORIGIN, origin

REQUEST_ID = istr("X-Request-Id")
ADDRESS = web.RequestKey("address", str)
"""Address of the client, behind trusted proxies."""
TRACEPARENT = web.RequestKey("traceparent", str)
"""W3C trace context of the request's span, where traces are exported."""

_STATE = istr("Flux-Instance-State")
_TRACEPARENT = istr("traceparent")
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_PROCESS = secrets.token_hex(4)  # IDs are unique, not secret: no random bytes for each
_numbers = itertools.count(1)


def set_context(origins: Origins, connection: Callable[[], str]) -> Middleware:
    """Return the middleware.

    Args:
        origins: finds addresses, and the CORS headers of a response.
        connection: returns the state of the connection to the instance; a response is marked unless it is "ready".
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[OPERATION] = find_operation(request)
        address = request[ADDRESS] = origins.address(request)
        request_id = _request_id(request)
        traceparent = request.get(TRACEPARENT) or request.headers.get(_TRACEPARENT)
        ORIGIN.set(origin(request_id, traceparent, address))
        headers: dict[str, str] = {REQUEST_ID: request_id}
        request[RESPONSE_HEADERS] = headers
        if origins.pages:
            headers.update(origins.shared_with(request))
        if (state := connection()) != "ready":
            headers[_STATE] = state  # the response may be out of date
        try:
            response = await handler(request)
            if not (response.prepared or isinstance(response, WholeResponse)):  # which adds them itself
                add_headers(request, response)
            return response
        finally:
            ORIGIN.set(None)  # the connection's next request is another one

    return middleware


def _request_id(request: web.Request) -> str:
    """Return the client's ID of a request, if it can be logged; else a new one."""
    given = request.headers.get(REQUEST_ID)
    return given if given and _ID.fullmatch(given) else f"{_PROCESS}-{next(_numbers):x}"
