"""The header Expect: what aiohttp does not know it refuses by itself, in its own words and before any middleware."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from sidecar import errors
from sidecar.api.around import HEADERS
from sidecar.errors import ExpectationFailed

_KNOWN = "100-continue"

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def only_known(handle: Handle) -> Handle:
    """Return a handler of all requests of a server that refuses what cannot be expected as everything else is refused.

    Routes alone would not do: a path that is none has no route, and would be told from others by its answer.
    """

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        expected = request.headers.get(hdrs.EXPECT)
        if not expected or expected.lower() == _KNOWN:
            return await handle(request)
        response = errors.render(ExpectationFailed(f"Expect: only {_KNOWN} is known here."))
        response.headers.update(HEADERS)
        response.force_close()  # nobody has looked at who sends it, so nobody reads on
        return response

    return handler
