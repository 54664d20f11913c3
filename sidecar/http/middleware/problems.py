"""Answer exceptions: problem details (RFC 9457) for programs, pages for people, and the errors of ``/api/v1``."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.auth.authorization import has_credential_header
from sidecar.domain.errors import Overloaded, Problem, StoreError, StoreUnavailable, Unauthenticated, without_traceback
from sidecar.http import hints, rest_errors
from sidecar.http import problems as details
from sidecar.http.body import BODIES
from sidecar.http.html import relative_root
from sidecar.http.middleware.admission import REFRESH
from sidecar.http.middleware.audit import PROBLEM
from sidecar.http.negotiation import prefers_html, takes_html
from sidecar.http.operations import OPERATIONS, is_api_path
from sidecar.http.responses import CLIENT_CLOSED_REQUEST, STARTED, is_lost

log = structlog.get_logger("server")

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class ErrorPages(NamedTuple):
    """Render errors for people."""

    login: Callable[..., web.Response]
    """Render the login form, optionally with the error of the last attempt."""
    error: Callable[[web.Request, Problem], web.Response]
    """Render any other error."""


def answer_errors(pages: ErrorPages) -> Middleware:
    """Return the middleware that turns exceptions into responses."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as exc:
            problem = without_traceback(exc)
        except web.HTTPException as exc:
            if exc.status < 400:
                raise
            problem = _from_http(request, exc)
        except StoreError as exc:
            problem = StoreUnavailable(str(exc))
        except Exception as exc:
            if isinstance(exc, OSError) and is_lost(request, exc):  # there is no client to answer
                return _abort_started(request) or web.Response(status=CLIENT_CLOSED_REQUEST)
            problem = _failure(request, exc)
        request[PROBLEM] = problem
        return _abort_started(request) or _render(request, problem, pages)

    return middleware


def _from_http(request: web.Request, exc: web.HTTPException) -> Problem:
    """Translate an error of aiohttp's own."""
    if rest_errors.is_rest_path(request.path) and exc.status in (404, 405):
        return rest_errors.no_route()
    paths = (op.path for op in request.app[OPERATIONS].values() if not rest_errors.is_rest_path(op.path))
    hint = hints.path(request.path, paths) if exc.status == 404 else ""
    return details.from_http(exc, request, request.app[BODIES].largest, hint)


def _failure(request: web.Request, exc: Exception) -> Problem:
    """Log a failure of the server, and return the error for the caller."""
    path = request.rel_url.raw_path
    if isinstance(exc, MemoryError):
        log.error("a request failed: out of memory", path=path)
        return Overloaded("The server has not enough memory for this request now; try again later.")
    if isinstance(exc, OSError) and exc.errno in _NO_DESCRIPTORS:
        log.error("a request failed: the limit of open files is reached (ulimit -n)", path=path)
        return Overloaded("The server has reached its limit of open files (ulimit -n); try again later.")
    log.error("a request failed", method=request.method, path=path, exc_info=exc)
    return Problem("The server failed; its log has the cause.")


def _abort_started(request: web.Request) -> web.StreamResponse | None:
    """Abort a response that was started, so that no client takes it for complete; None if none was."""
    started: web.StreamResponse | None = request.get(STARTED)
    if started is not None and request.transport is not None:
        request.transport.abort()
    return started


def _render(request: web.Request, problem: Problem, pages: ErrorPages) -> web.Response:
    if _is_probe_of_root(request, problem):
        return pages.login(root=relative_root(request.path))
    if is_api_path(request.path) or rest_errors.is_rest_path(request.path) or not prefers_html(request):
        return rest_errors.render(request, problem)
    if isinstance(problem, Unauthenticated) and request.method == "GET":
        return pages.login(problem, destination=request.path_qs, first=True, root=relative_root(request.path))
    return pages.error(request, problem)


def _is_probe_of_root(request: web.Request, problem: Problem) -> bool:
    """Whether this is ``GET /`` without a credential, which the login page answers with 200, not 401.

    The Flux Operator's SDK and flux-cloud take the server for started once they get 200 there.
    """
    return (
        isinstance(problem, Unauthenticated)
        and request.path == "/"
        and request.method in ("GET", "HEAD")
        and not has_credential_header(request)
        and REFRESH not in request.headers  # or the login page would replace the page that is refreshed
        and takes_html(request)
    )
