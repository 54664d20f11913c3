"""Responses that are sent in parts, and the headers of all responses."""

from __future__ import annotations

from aiohttp import ClientConnectionResetError, web

from sidecar.http.headers import HEADERS

STARTED = web.RequestKey("response", web.StreamResponse)
"""The response, once its headers are sent; an error afterwards aborts it."""
RESPONSE_HEADERS = web.RequestKey("headers", dict[str, str])
"""Headers of every response to this request, in addition to :data:`~sidecar.http.headers.HEADERS`."""
CLIENT_CLOSED_REQUEST = 499
"""Status of a request if its client disconnected before the response, as nginx logs it."""


async def start_response(request: web.Request, response: web.StreamResponse) -> None:
    """Send the headers of a response with a body that is sent in chunks."""
    add_headers(request, response)
    request[STARTED] = response
    await response.prepare(request)


def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the headers of every response to this request, unless its handler has set others."""
    setdefault = response.headers.setdefault
    for headers in (request[RESPONSE_HEADERS], HEADERS):
        for name, value in headers.items():
            setdefault(name, value)


def vary(request: web.Request, header: str) -> None:
    """Declare that the response depends on a header of the request (RFC 9110, section 12.5.5)."""
    headers = request[RESPONSE_HEADERS]
    headers["Vary"] = f"{headers['Vary']}, {header}" if "Vary" in headers else header


def is_closed(request: web.BaseRequest) -> bool:
    """Whether the request's connection is closed or closing: written data is lost."""
    return request.transport is None or request.transport.is_closing()


def is_lost(request: web.BaseRequest, exc: OSError) -> bool:
    """Whether an error means that the request's own connection was lost.

    Others, such as a pipe, raise the same errors. aiohttp raises those of writing as ConnectionError itself or a class
    of its own, and sets those of reading on the body.
    """
    if not is_closed(request):
        return False
    own = type(exc) is ConnectionError or isinstance(exc, ClientConnectionResetError)
    return own or exc is request.content.exception()
