"""Answers that are sent in pieces: begun in one place, so that an error in the middle cuts them off."""

from __future__ import annotations

from aiohttp import ClientConnectionResetError, web

STARTED = web.RequestKey("response", web.StreamResponse)
"""The answer whose headers were sent."""
RESPONSE_HEADERS = web.RequestKey("headers", dict[str, str])
"""Headers of every response to this request, unless its handler sets others."""
CLIENT_CLOSED_REQUEST = 499
"""Status of a request whose client disconnected before the response, as nginx logs it."""


async def start_response(request: web.Request, response: web.StreamResponse) -> None:
    """Send the headers of an answer that is to come in pieces."""
    add_headers(request, response)
    request[STARTED] = response
    await response.prepare(request)


def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Give an answer the headers that every answer to this request has."""
    setdefault = response.headers.setdefault
    for name, value in request[RESPONSE_HEADERS].items():
        setdefault(name, value)


def vary(request: web.Request, header: str) -> None:
    """Say that the answer depends on a header of the request (RFC 9110, section 12.5.5)."""
    headers = request[RESPONSE_HEADERS]
    headers["Vary"] = f"{headers['Vary']}, {header}" if "Vary" in headers else header


def is_closed(request: web.BaseRequest) -> bool:
    """Whether the request's connection is closed, or about to be: what is written is lost."""
    return request.transport is None or request.transport.is_closing()


def is_lost(request: web.BaseRequest, exc: OSError) -> bool:
    """Whether an error is that of the request's own connection, which is lost.

    The same errors come from elsewhere too, such as a pipe. aiohttp raises those of writing as ConnectionError itself
    or as a class of its own, and gives those of reading to the body.
    """
    if not is_closed(request):
        return False
    own = type(exc) is ConnectionError or isinstance(exc, ClientConnectionResetError)
    return own or exc is request.content.exception()
