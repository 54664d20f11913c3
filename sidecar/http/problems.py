"""Encode errors as problem details (RFC 9457), aiohttp's own errors included."""

from __future__ import annotations

import msgspec
from aiohttp import web

from sidecar.domain.errors import InvalidRequest, MethodNotAllowed, NotFound, Problem, TooLarge, UnsupportedMediaType
from sidecar.http.headers import HEADERS

CONTENT_TYPE = "application/problem+json"


_FROM_HTTP: dict[int, type[Problem]] = {
    cls.status: cls for cls in (InvalidRequest, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType)
}


def from_http(exc: web.HTTPException, request: web.Request, max_body: int, hint: str = "") -> Problem:
    """Translate an error that aiohttp raised (unknown path, wrong method, body over the limit).

    Args:
        exc: the error.
        request: the request.
        max_body: limit of bodies in bytes, for the text.
        hint: the path that was probably meant by an unknown one.
    """
    cls = _FROM_HTTP.get(exc.status)
    if cls is NotFound:
        advice = f"did you mean {hint}?" if hint else "/openapi.json lists every route."
        return NotFound(f"There is nothing at {request.path}; {advice}")
    if cls is MethodNotAllowed:
        allowed = exc.headers.get("Allow", "")
        return MethodNotAllowed(
            f"{request.path} does not support {request.method}; allowed: {allowed}.", headers={"Allow": allowed}
        )
    if cls is TooLarge:
        return TooLarge(f"The body is larger than the limit of {max_body} bytes (--max-body).")
    problem = (cls or Problem)(exc.text or exc.reason)
    problem.status, problem.title = exc.status, exc.reason
    return problem


def encode(problem: Problem) -> bytes:
    """Return the body of an error response, which has the same members for every route."""
    return msgspec.json.encode(problem.body()) + b"\n"


def render(problem: Problem) -> web.Response:
    """Return the response of an error."""
    return web.Response(
        body=encode(problem),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )


def raw_response(problem: Problem) -> bytes:
    """Return the response of an error as bytes, for a connection without a request to answer."""
    body = encode(problem)
    headers = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **HEADERS,
        **problem.headers,
    }
    lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
