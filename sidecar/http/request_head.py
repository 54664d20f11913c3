"""What the head of a request asks of this server before any route: what cannot be done is refused as all else is.

Some of it aiohttp would refuse by itself, in its own words and before any middleware; some it would pass over, and
answer as if it had understood.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion11, hdrs, web

from sidecar.domain.errors import ExpectationFailed, InvalidRequest, NotImplementedHere, Problem
from sidecar.http import problems
from sidecar.http.headers import HEADERS
from sidecar.http.unreadable import check_version

_CONTINUE = "100-continue"

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def understood(handle: Handle) -> Handle:
    """Return a handler of all requests of a server that refuses those whose head asks for what is not done here.

    A check in the routes would not do: an unknown path has no route, and its answer would differ from the others'.
    """

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        try:
            _check(request)
        except Problem as problem:
            response = problems.render(problem)
            response.headers.update(HEADERS)
            response.force_close()  # the caller is not authenticated: read no more from it
            request._cache["version"] = HttpVersion11  # aiohttp answers in the version that it was asked in
            return response
        return await handle(request)

    return handler


def _check(request: web.BaseRequest) -> None:
    """Let a request through.

    Raises:
        VersionNotSupported: it is of a version that is not spoken here.
        ExpectationFailed: it expects what cannot be expected.
        NotImplementedHere: its body is encoded in a way that is not known here, or it asks for a tunnel.
        InvalidRequest: it is meant for a proxy, or for nothing.
    """
    check_version(request.version)
    expected = request.headers.get(hdrs.EXPECT)
    if expected and expected.lower() != _CONTINUE:
        raise ExpectationFailed(f"Expect: only {_CONTINUE} is known here.")
    for coding in ",".join(request.headers.getall(hdrs.TRANSFER_ENCODING, ())).split(","):
        if coding.strip().lower() not in ("", "chunked", "identity"):
            raise NotImplementedHere("Transfer-Encoding: only chunked is known here; send the body as it is.")
    if request.method == hdrs.METH_CONNECT:
        raise NotImplementedHere("CONNECT: this server is not a proxy.")
    if not request.rel_url.raw_path.startswith("/"):
        raise InvalidRequest("The request line names no path: it begins with a slash, as in GET /v1/jobs HTTP/1.1.")
