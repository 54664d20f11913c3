"""Every error that a caller can see, as one shape: RFC 9457 plus the members that the predecessor's clients read.

A handler raises one of these classes; only :func:`render` turns it into a response.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType


class ProblemBody(msgspec.Struct, omit_defaults=False):
    """The body of every error answer (RFC 9457, and ``Message`` and ``Errors`` for older clients)."""

    type: str
    title: str
    status: int
    detail: str
    Message: str
    Errors: list[str]
    lag: Annotated[
        float | UnsetType,
        Meta(description="for how long what was accepted has not been stored (seconds); of journal-lags alone"),
    ] = UNSET


_TEXT = 1000  # characters of a text; what a caller has sent is quoted in some, and must not come back whole
_FAULTS = 30
_FAULT = 300  # characters


class Problem(Exception):
    """An error with an HTTP status. ``errors`` names each single fault, ``detail`` says what to change.

    An answer never grows with what was sent: texts are shortened, and of many faults the first are named.
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
        self.detail = shortened(detail, _TEXT)
        self.message = shortened(message or detail, _TEXT)
        self.errors = [shortened(fault, _FAULT) for fault in (errors or [detail])[:_FAULTS]]
        if errors and len(errors) > _FAULTS:
            self.errors.append(f"There are {len(errors) - _FAULTS} more faults.")
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


class Denied(InvalidRequest):
    """A login that failed where 401 would have a client ask for ever: 400, and in the audit a refusal."""


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


class NotAcceptable(Problem):
    """The caller takes none of the media types that there are: 406."""

    status, title, slug = 406, "Not acceptable", "not-acceptable"


class RequestTimeout(Problem):
    """The body did not come in time: 408."""

    status, title, slug = 408, "Request timeout", "request-timeout"


class Conflict(Problem):
    """The state of the job or the instance forbids it: 409."""

    status, title, slug = 409, "Conflict", "conflict"


class Ended(Conflict):
    """The job has ended already: 409."""


class Gone(Problem):
    """It was there, and is not kept any longer: 410."""

    status, title, slug = 410, "Not kept any longer", "gone"


class PreconditionFailed(Problem):
    """There is another version than the caller wants: 412."""

    status, title, slug = 412, "Precondition failed", "precondition-failed"


class TooLarge(Problem):
    """The body is over the limit: 413."""

    status, title, slug = 413, "Request body too large", "body-too-large"


class UnsupportedMediaType(Problem):
    """The body is of a kind that is not read here: 415."""

    status, title, slug = 415, "Unsupported media type", "unsupported-media-type"


class HeadTooLarge(Problem):
    """Request line and headers are over the limit: 431."""

    status, title, slug = 431, "Request header fields too large", "head-too-large"


class RangeNotSatisfiable(Problem):
    """There is no such part: 416."""

    status, title, slug = 416, "Range not satisfiable", "range-not-satisfiable"


class ExpectationFailed(Problem):
    """The header Expect asks for something that is not done here: 417."""

    status, title, slug = 417, "Expectation failed", "expectation-failed"


class NotImplementedHere(Problem):
    """The method, or the coding of the body, is not known here: 501."""

    status, title, slug = 501, "Not implemented", "not-implemented"


class VersionNotSupported(Problem):
    """The request is of a version of HTTP that is not spoken here: 505."""

    status, title, slug = 505, "HTTP version not supported", "http-version-not-supported"


class Misdirected(Problem):
    """The request names a host that this server is not: 421."""

    status, title, slug = 421, "Misdirected request", "misdirected-request"


class TooManyRequests(Problem):
    """The caller asks too often, or holds too much: 429 with ``Retry-After``."""

    status, title, slug = 429, "Too many requests", "too-many-requests"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class IdempotencyKeyReused(Problem):
    """An idempotency key was used for another request: 422."""

    status, title, slug = 422, "The idempotency key was used for another request", "idempotency-key-reused"


class Unavailable(Problem):
    """The instance cannot be asked just now: 503 with ``Retry-After``."""

    status, title, slug = 503, "The Flux instance is not available", "instance-unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1, **kwargs: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)}, **kwargs)


class Lagging(Unavailable):
    """What the instance has accepted is not in the store yet: 503 with ``Retry-After`` and the lag (seconds)."""

    title, slug = "The journal of jobs lags behind", "journal-lags"

    def __init__(self, detail: str, *, lag: float, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.lag = lag

    def body(self) -> ProblemBody:
        """Return the body that the caller gets, with the lag."""
        return msgspec.structs.replace(super().body(), lag=self.lag)


class StoreUnavailable(Unavailable):
    """The store cannot be read just now: 503 with ``Retry-After``."""

    title, slug = "The store of jobs is not available", "store-unavailable"


class Overloaded(Unavailable):
    """The server holds as much for its callers as it may: 503 with ``Retry-After``."""

    title, slug = "The server is at its limit", "overloaded"


class AuthBackendUnavailable(Unavailable):
    """Who would know the caller cannot be asked just now: 503, and nobody is let in."""

    title, slug = "Callers cannot be told just now", "caller-unknown"


class ClusterForbidden(Problem):
    """Kubernetes does not let this server do it, whoever asks: 502."""

    status, title, slug = 502, "The cluster does not let this server do it", "cluster-refuses"


class ClusterUnavailable(Unavailable):
    """The Kubernetes API server cannot be asked just now: 503 with ``Retry-After``."""

    title, slug = "The Kubernetes API server is not available", "cluster-unavailable"


class ResponseTimeout(Unavailable):
    """A command was sent and is not answered yet: it may be carried out all the same. ``result`` will tell."""

    def __init__(self, detail: str, result: asyncio.Future[Any]) -> None:
        super().__init__(detail)
        self.result = result


def without_traceback(problem: Problem) -> Problem:
    """Return a problem without its traceback and context.

    Those hold every variable of the calls that it came through, a whole body perhaps; and as they hold the variable of
    the error itself too, all of it would stay until the garbage collector finds the circle.
    """
    problem.__context__ = problem.__cause__ = None
    return problem.with_traceback(None)


def shortened(text: str, most: int) -> str:
    """Return a text that has at most so many characters, and no lone surrogate; of a longer one beginning and end."""
    if not text.isascii():
        text = text.encode(errors="replace").decode()
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 5]} ... {text[-end:]}"


class Closed(Exception):
    """There will be no more events; the text says why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class StoreError(Exception):
    """The store cannot be used; the text says why and what to do."""
