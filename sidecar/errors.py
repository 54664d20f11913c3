"""Every error that a caller can see, as one shape: RFC 9457 plus the members that the predecessor's clients read.

A handler raises one of these classes; only :func:`render` turns it into a response.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

CONTENT_TYPE = "application/problem+json"


class ProblemBody(msgspec.Struct, omit_defaults=False):
    """The body of every error answer (RFC 9457, and ``Message`` and ``Errors`` for older clients)."""

    type: str
    title: str
    status: int
    detail: str
    Message: str
    Errors: list[str]


class Problem(Exception):
    """An error with an HTTP status. ``errors`` names each single fault, ``detail`` says what to change."""

    status = 500
    title = "Internal Server Error"
    slug = "internal-error"

    def __init__(
        self,
        detail: str,
        *,
        errors: list[str] | None = None,
        message: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.message = message or detail
        self.errors = errors or [detail]
        self.headers = headers or {}

    def body(self) -> ProblemBody:
        """Return the body that the caller gets."""
        return ProblemBody(
            type=f"urn:flux-sidecar:problem:{self.slug}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            Message=self.message,
            Errors=self.errors,
        )


class InvalidRequest(Problem):
    """The request itself is wrong: 400."""

    status, title, slug = 400, "Invalid request", "invalid-request"


class Rejected(Problem):
    """Flux refused the job, in its own words: 400, as the predecessor answered."""

    status, title, slug = 400, "The job was not accepted", "job-rejected"


class Unauthenticated(Problem):
    """Nobody knows who is calling: 401 with ``WWW-Authenticate``."""

    status, title, slug = 401, "Authentication is needed", "unauthenticated"


class Forbidden(Problem):
    """The caller may not do this: 403."""

    status, title, slug = 403, "Not allowed", "forbidden"


class NotFound(Problem):
    """No such job, launcher or path: 404."""

    status, title, slug = 404, "Not found", "not-found"


class MethodNotAllowed(Problem):
    """The path exists, the method does not: 405."""

    status, title, slug = 405, "Method not allowed", "method-not-allowed"


class RequestTimeout(Problem):
    """The body did not come in time: 408."""

    status, title, slug = 408, "Request timeout", "request-timeout"


class Conflict(Problem):
    """The state of the job or the instance forbids it: 409."""

    status, title, slug = 409, "Conflict", "conflict"


class TooLarge(Problem):
    """The body is over the limit: 413."""

    status, title, slug = 413, "Request body too large", "body-too-large"


class UnsupportedMediaType(Problem):
    """The body is of a kind that is not read here: 415."""

    status, title, slug = 415, "Unsupported media type", "unsupported-media-type"


class Misdirected(Problem):
    """The request names a host that this server is not: 421."""

    status, title, slug = 421, "Misdirected request", "misdirected-request"


class TooMany(Problem):
    """The caller asks too often, or holds too much: 429 with ``Retry-After``."""

    status, title, slug = 429, "Too many requests", "too-many-requests"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class KeyReused(Problem):
    """An idempotency key was used for another request: 422."""

    status, title, slug = 422, "The idempotency key was used for another request", "idempotency-key-reused"


class Unavailable(Problem):
    """The instance cannot be asked just now: 503 with ``Retry-After``."""

    status, title, slug = 503, "The Flux instance is not available", "instance-unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1, **kwargs: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)}, **kwargs)


class CallerUnknown(Unavailable):
    """Who would know the caller cannot be asked just now: 503, and nobody is let in."""

    title, slug = "Callers cannot be told just now", "caller-unknown"


class ClusterRefuses(Problem):
    """Kubernetes does not let this server do it, whoever asks: 502."""

    status, title, slug = 502, "The cluster does not let this server do it", "cluster-refuses"


class ClusterUnavailable(Unavailable):
    """The Kubernetes API server cannot be asked just now: 503 with ``Retry-After``."""

    title, slug = "The Kubernetes API server is not available", "cluster-unavailable"


class Unanswered(Unavailable):
    """A command was sent and is not answered yet: it may be carried out all the same. ``result`` will tell."""

    def __init__(self, detail: str, result: asyncio.Future[Any]) -> None:
        super().__init__(detail)
        self.result = result


_FROM_HTTP: dict[int, type[Problem]] = {
    cls.status: cls for cls in (InvalidRequest, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType)
}


def from_http(exc: web.HTTPException, request: web.Request, max_body: int) -> Problem:
    """Translate an error that aiohttp raised by itself (unknown path, wrong method, body over the limit)."""
    cls = _FROM_HTTP.get(exc.status)
    if cls is NotFound:
        return NotFound(f"There is nothing at {request.path}; /openapi.json lists every route.")
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


def render(problem: Problem) -> web.Response:
    """Make the one response shape that every error of every route has."""
    return web.Response(
        body=msgspec.json.encode(problem.body()) + b"\n",
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )
