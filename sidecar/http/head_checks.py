"""Refuse requests with unsupported features in their head, before any route.

Some of it aiohttp would refuse in its own words before any middleware; some it would ignore, and answer as if it were
supported.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, hdrs, web

from sidecar.domain.errors import ExpectationFailed, InvalidRequest, NotImplementedHere, Problem
from sidecar.http import rest_errors
from sidecar.http.connection import RequestHandler
from sidecar.http.headers import HEADERS
from sidecar.http.unreadable import check_version

_CONTINUE = "100-continue"


def reject_unsupported(handle: RequestHandler) -> RequestHandler:
    """Wrap a server's request handler: refuse requests with unsupported features in their head.

    A check in the routes would not do: an unknown path has none, and its response would differ.
    """

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        try:
            _check(request)
        except Problem as problem:
            response = rest_errors.render(request, problem)
            response.headers.update(HEADERS)
            response.force_close()  # the client is unauthenticated: read nothing more from it
            request._cache["version"] = HttpVersion11  # aiohttp responds in the version of the request
            return response
        return await handle(request)

    return handler


def _check(request: web.BaseRequest) -> None:
    """Check the head of a request.

    Raises:
        VersionNotSupported: its version of HTTP is not supported.
        ExpectationFailed: it expects something else than 100-continue.
        NotImplementedHere: its transfer coding is not supported, or it asks for a tunnel.
        InvalidRequest: its target is not a path.
    """
    headers = request.headers
    check_version(request.version)
    expected = headers.get(hdrs.EXPECT)
    if expected and expected.lower() != _CONTINUE:
        raise ExpectationFailed(f"Expect: only {_CONTINUE} is supported.")
    if hdrs.TRANSFER_ENCODING in headers:
        for coding in ",".join(headers.getall(hdrs.TRANSFER_ENCODING)).split(","):
            if coding.strip().lower() not in ("", "chunked", "identity"):
                raise NotImplementedHere("Transfer-Encoding: only chunked is supported; send the body unencoded.")
    if request.method == hdrs.METH_CONNECT:
        raise NotImplementedHere("CONNECT: this server is not a proxy.")
    if not request.rel_url.raw_path.startswith("/"):
        raise InvalidRequest("The request line has no path; it starts with a slash, as in GET /v1/jobs HTTP/1.1.")
