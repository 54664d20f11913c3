"""Errors as responses: RFC 9457, and aiohttp's own errors in the same shape."""

from __future__ import annotations

import msgspec
from aiohttp import web

from sidecar.domain.errors import InvalidRequest, MethodNotAllowed, NotFound, Problem, TooLarge, UnsupportedMediaType

CONTENT_TYPE = "application/problem+json"


_FROM_HTTP: dict[int, type[Problem]] = {
    cls.status: cls for cls in (InvalidRequest, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType)
}


def from_http(exc: web.HTTPException, request: web.Request, max_body: int, meant: str = "") -> Problem:
    """Translate an error that aiohttp raised by itself (unknown path, wrong method, body over the limit).

    Args:
        exc: the error.
        request: that it is about.
        max_body: for its text.
        meant: the path that was probably meant, where there is nothing at the one that was asked for.
    """
    cls = _FROM_HTTP.get(exc.status)
    if cls is NotFound:
        hint = f"did you mean {meant}?" if meant else "/openapi.json lists every route."
        return NotFound(f"There is nothing at {request.path}; {hint}")
    if cls is MethodNotAllowed:
        allowed = exc.headers.get("Allow", "")
        return MethodNotAllowed(
            f"{request.method} is not for {request.path}; allowed: {allowed}.", headers={"Allow": allowed}
        )
    if cls is TooLarge:
        return TooLarge(f"The body is larger than the limit of {max_body} bytes (--max-body).")
    problem = (cls or Problem)(exc.text or exc.reason)
    problem.status, problem.title = exc.status, exc.reason
    return problem


def encode(problem: Problem) -> bytes:
    """Return the one body that every error of every route has."""
    return msgspec.json.encode(problem.body()) + b"\n"


def render(problem: Problem) -> web.Response:
    """Make the one response shape that every error of every route has."""
    return web.Response(
        body=encode(problem),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )
