"""Errors that a client can receive, in one format: RFC 9457, and the members that the predecessor's clients read.

Services and handlers raise these classes; :mod:`sidecar.http.problems` makes responses of them. The first sentence of
a docstring, up to the status, is the description in docs/api.md.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sidecar.domain.untrusted import excerpt

_TEXT = 1000  # characters of a text; some quote the request, which must not come back as a whole
_FAULTS = 30
_FAULT = 300  # characters


class ProblemBody(msgspec.Struct, omit_defaults=False):
    """The body of an error response (RFC 9457, with ``Message`` and ``Errors`` for older clients)."""

    type: Annotated[str, Meta(description="URN of the kind of problem; see the table of errors")]
    title: Annotated[str, Meta(description="name of the kind of problem")]
    status: Annotated[int, Meta(description="HTTP status")]
    detail: Annotated[str, Meta(description="cause of this problem, and what to do about it")]
    Message: Annotated[str, Meta(description="summary of the problem, for clients of flux-restful-api")]
    Errors: Annotated[list[str], Meta(description="each fault of the request")]
    lag: Annotated[
        float | UnsetType,
        Meta(description="seconds by which the store lags behind accepted commands; only of journal-lags"),
    ] = UNSET


class Problem(Exception):
    """An error with an HTTP status.

    The size of the response does not depend on the request: long texts are shortened, and only the first faults are
    listed.

    Args:
        detail: cause of the problem, and what to do about it.
        errors: each single fault; default: ``detail``.
        message: summary for older clients; default: ``detail``.
        headers: further headers of the response.
    """

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
        self.detail = excerpt(detail, _TEXT)
        self.message = excerpt(message or detail, _TEXT)
        self.errors = [excerpt(fault, _FAULT) for fault in (errors or [detail])[:_FAULTS]]
        if errors and len(errors) > _FAULTS:
            self.errors.append(f"There are {len(errors) - _FAULTS} more faults.")
        self.headers = headers or {}

    def body(self) -> ProblemBody:
        """Return the body of the response."""
        return ProblemBody(
            type=f"urn:flux-sidecar:problem:{self.slug}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            Message=self.message,
            Errors=self.errors,
        )


class InvalidRequest(Problem):
    """The request is not valid: 400."""

    status, title, slug = 400, "Invalid request", "invalid-request"


class Denied(InvalidRequest):
    """A failed login, where 401 would make a client retry forever: 400. The audit log records a denial."""


class Rejected(Problem):
    """Flux has rejected the job; the detail is Flux's message: 400, as in the predecessor."""

    status, title, slug = 400, "Job rejected", "job-rejected"


class Unauthenticated(Problem):
    """The request has no valid credential: 401 with ``WWW-Authenticate``."""

    status, title, slug = 401, "Authentication required", "unauthenticated"


class Forbidden(Problem):
    """The caller is not permitted to do this: 403."""

    status, title, slug = 403, "Not allowed", "forbidden"


class NotFound(Problem):
    """The job, launcher or path does not exist: 404."""

    status, title, slug = 404, "Not found", "not-found"


class MethodNotAllowed(Problem):
    """The path exists, but does not support the method: 405."""

    status, title, slug = 405, "Method not allowed", "method-not-allowed"


class NotAcceptable(Problem):
    """The client accepts none of the available media types: 406."""

    status, title, slug = 406, "Not acceptable", "not-acceptable"


class RequestTimeout(Problem):
    """The request body did not arrive in time: 408."""

    status, title, slug = 408, "Request timeout", "request-timeout"


class Conflict(Problem):
    """The state of the job or the instance does not permit this: 409."""

    status, title, slug = 409, "Conflict", "conflict"


class Ended(Conflict):
    """The job has already ended: 409."""


class Gone(Problem):
    """The resource existed, but has been deleted: 410."""

    status, title, slug = 410, "Gone", "gone"


class PreconditionFailed(Problem):
    """The resource has another version than the client requires: 412."""

    status, title, slug = 412, "Precondition failed", "precondition-failed"


class TooLarge(Problem):
    """The request body exceeds the limit: 413."""

    status, title, slug = 413, "Request body too large", "body-too-large"


class UnsupportedMediaType(Problem):
    """The media type of the request body is not supported: 415."""

    status, title, slug = 415, "Unsupported media type", "unsupported-media-type"


class HeadTooLarge(Problem):
    """Request line and headers exceed the limit: 431."""

    status, title, slug = 431, "Request header fields too large", "head-too-large"


class RangeNotSatisfiable(Problem):
    """The requested range does not exist: 416."""

    status, title, slug = 416, "Range not satisfiable", "range-not-satisfiable"


class ExpectationFailed(Problem):
    """The value of the Expect header is not supported: 417."""

    status, title, slug = 417, "Expectation failed", "expectation-failed"


class NotImplementedHere(Problem):
    """The method, or the transfer coding of the body, is not supported: 501."""

    status, title, slug = 501, "Not implemented", "not-implemented"


class VersionNotSupported(Problem):
    """The HTTP version of the request is not supported: 505."""

    status, title, slug = 505, "HTTP version not supported", "http-version-not-supported"


class Misdirected(Problem):
    """The request is for a host that is not a name of this server: 421."""

    status, title, slug = 421, "Misdirected request", "misdirected-request"


class TooManyRequests(Problem):
    """The caller has exceeded a rate or another limit: 429 with ``Retry-After``."""

    status, title, slug = 429, "Too many requests", "too-many-requests"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class IdempotencyKeyReused(Problem):
    """The idempotency key was used for a different request: 422."""

    status, title, slug = 422, "Idempotency key reused", "idempotency-key-reused"


class Unavailable(Problem):
    """The Flux instance is temporarily unavailable: 503 with ``Retry-After``."""

    status, title, slug = 503, "Flux instance unavailable", "instance-unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1, **kwargs: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)}, **kwargs)


class Lagging(Unavailable):
    """The store does not contain an accepted command yet: 503 with ``Retry-After`` and the lag in seconds."""

    title, slug = "Journal lags behind", "journal-lags"

    def __init__(self, detail: str, *, lag: float, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.lag = lag

    def body(self) -> ProblemBody:
        """Return the body of the response, with the lag."""
        return msgspec.structs.replace(super().body(), lag=self.lag)


class StoreUnavailable(Unavailable):
    """The store is temporarily unavailable: 503 with ``Retry-After``."""

    title, slug = "Store unavailable", "store-unavailable"


class Overloaded(Unavailable):
    """The server has reached a limit of memory or connections: 503 with ``Retry-After``."""

    title, slug = "Server overloaded", "overloaded"


class AuthBackendUnavailable(Unavailable):
    """The service that verifies credentials is temporarily unavailable: 503; no request is let through."""

    title, slug = "Authentication backend unavailable", "caller-unknown"


class ClusterForbidden(Problem):
    """The server's service account is not permitted to do this: 502, regardless of the caller."""

    status, title, slug = 502, "Forbidden by the Kubernetes API server", "cluster-refuses"


class ClusterUnavailable(Unavailable):
    """The Kubernetes API server is temporarily unavailable: 503 with ``Retry-After``."""

    title, slug = "Kubernetes API server unavailable", "cluster-unavailable"


class NotSent(Unavailable):
    """A request could not be sent to Flux in time, and is not carried out: 503."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"{detail} The request was not sent.")


class ResponseTimeout(Unavailable):
    """Flux has not responded to a command, which may still be carried out: 503; ``result`` gets a late response."""

    def __init__(self, detail: str, result: asyncio.Future[Any]) -> None:
        super().__init__(f"{detail} The request may still be carried out.")
        self.result = result


def without_traceback(problem: Problem) -> Problem:
    """Return the problem without traceback and context.

    These refer to every variable of the calls that raised it, perhaps a whole request body. They also refer to the
    variable of the error itself, a cycle that would keep all of it until the next garbage collection.
    """
    problem.__context__ = problem.__cause__ = None
    return problem.with_traceback(None)


class StoreError(Exception):
    """The store cannot be used; the text says why and what to do."""
