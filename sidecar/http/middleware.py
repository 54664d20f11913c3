"""What is around every call: who sends it, what it counts as, the one shape of its errors, and what is noted of it.

One function for all of it: each middleware, and each signal, costs every request some microseconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from sidecar.auth.guard import CALLER, NO_CALLER, Guard
from sidecar.auth.origins import SAFE
from sidecar.domain.errors import (
    Denied,
    Overloaded,
    Problem,
    StoreError,
    StoreUnavailable,
    Unauthenticated,
    without_traceback,
)
from sidecar.http import hints, problems
from sidecar.http import responses as begun
from sidecar.http.audit import DETAILS, Audit, AuditEvent, Outcome, audit_details, request_id
from sidecar.http.body import check_head
from sidecar.http.headers import HEADERS
from sidecar.http.html import relative_root
from sidecar.http.negotiation import prefers_html, takes_html
from sidecar.http.operations import OPERATIONS, Operation
from sidecar.http.routing import COMMAND
from sidecar.http.streaming import in_chunks
from sidecar.instance import Instance
from sidecar.telemetry.instruments import Instruments
from sidecar.telemetry.logs import ORIGIN, origin

log = structlog.get_logger("server")
access = structlog.get_logger("access")

_REFRESH = istr("Flux-Refresh")  # what a page's script says when it brings the page up to date
_STATE = istr("Flux-Instance-State")
_REQUEST_ID = istr("X-Request-Id")
_TRACEPARENT = istr("traceparent")
_GONE = 499  # what nginx logs when a caller does not wait for the answer
_REFUSALS = frozenset({401, 403, 421, 429})
_SAID = {"uid": "job"}  # what a variable of a path is in the audit
_SHOWN = 100  # characters
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Use(Protocol):
    """Notes the use of the instance."""

    def used(self) -> None:
        """Note a use that is over."""

    def in_use(self) -> AbstractContextManager[None]:
        """Return a context manager that counts a request as use while it is in progress."""


class Around:
    """Makes the middleware.

    Args:
        guard: lets requests through.
        instance: says whether it is connected.
        use: notes that the instance is in use: of a stream its beginning, of any other request all of its time.
        login_page: shows the login form to a person, with the error of the attempt before.
        meters: told of each request.
        error_page: shows an error to a person.
        max_body: for the error's text.
        log_requests: whether each has a line in the log.
    """

    def __init__(
        self,
        guard: Guard,
        instance: Instance,
        use: Use,
        login_page: Callable[..., web.Response],
        meters: Instruments,
        *,
        error_page: Callable[[web.Request, Problem], web.Response],
        max_body: int,
        log_requests: bool,
    ) -> None:
        self._error_page = error_page
        self._log_requests = log_requests
        self._meters = meters
        self._tracing = meters.tracing
        self._guard = guard
        self._login_page = login_page
        self._instance = instance
        self._use = use
        self._max_body = max_body
        self._audit = Audit()

    def middleware(self) -> Middleware:
        """Return the middleware."""

        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            op = request.app[OPERATIONS].get(request.match_info.handler)
            if self._tracing is None:
                return await self._handled(request, handler, op, request.headers.get(_TRACEPARENT))
            route = op.path if op else ""
            with self._tracing.request(request.method, request.path, route, request.headers) as span:
                response = await self._handled(request, handler, op, span.traceparent)
                span.answered(response.status)
                return response

        return around

    async def _handled(
        self, request: web.Request, handler: Handler, op: Operation | None, traceparent: str | None
    ) -> web.StreamResponse:
        address = self._guard.origins.address(request)
        found = origin(request_id(request), traceparent)
        ORIGIN.set(found._replace(stranger=address))
        request[begun.HEADERS] = self._headers(request, found.request_id)
        began, status, sent = time.perf_counter(), _GONE, 0
        route, stream = (op.path, op.stream) if op else ("", False)
        self._meters.begin(route, stream=stream)
        try:
            response, problem = await self._answered(request, handler, op)
            status, sent = response.status, _size(response)
            if not response.prepared:
                begun.add_headers(request, response)
            if request.method not in SAFE or response.status in _REFUSALS:
                self._write(request, op, response.status, problem)
            return response
        except asyncio.CancelledError:  # the caller has gone
            if request.method not in SAFE:
                self._write_later(request, op)
            raise
        finally:
            seconds = time.perf_counter() - began
            self._meters.end(request.method, route, status, seconds, stream=stream)
            if self._log_requests:
                self._log(request, op, status, seconds, sent)
            ORIGIN.set(None)  # the next request of this connection is another one

    def _log(self, request: web.Request, op: Operation | None, status: int, seconds: float, sent: int) -> None:
        """Write the one line that every request has; of what machines ask all the time only what fails."""
        if status < 400 and op is not None and op.quiet:
            return
        level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
        access.log(
            level,
            "request",
            method=request.method,
            route=op.path if op else "",
            path=request.rel_url.raw_path,
            status=status,
            seconds=round(seconds, 6),
            bytes=sent,
            caller=request.get(CALLER, NO_CALLER).name,
            address=self._guard.origins.address(request),
        )

    def _headers(self, request: web.Request, request_id: str) -> dict[str, str]:
        headers: dict[str, str] = {**HEADERS, _REQUEST_ID: request_id}
        if self._guard.origins.pages:
            headers.update(self._guard.origins.shared_with(request))
        if self._instance.status.connection != "ready":
            headers[_STATE] = str(self._instance.status.connection)  # the answer may be out of date
        return headers

    async def _answered(
        self, request: web.Request, handler: Handler, op: Operation | None
    ) -> tuple[web.StreamResponse, Problem | None]:
        """Let the request through to its handler; return the answer, and the error that it is."""
        try:
            return await self._admitted(request, handler, op), None
        except Problem as exc:
            problem = without_traceback(exc)
        except web.HTTPException as exc:
            if exc.status < 400:
                raise
            paths = (each.path for each in request.app[OPERATIONS].values())
            meant = hints.path(request.path, paths) if exc.status == 404 else ""
            problem = problems.from_http(exc, request, self._max_body, meant)
        except StoreError as exc:
            problem = StoreUnavailable(str(exc))
        except Exception as exc:
            if isinstance(exc, OSError) and begun.is_lost(request, exc):  # there is no caller to answer
                return _cut_off(request) or web.Response(status=_GONE), None
            problem = _failure(request, exc)
        return _cut_off(request) or self._rendered(request, problem), problem

    async def _admitted(self, request: web.Request, handler: Handler, op: Operation | None) -> web.StreamResponse:
        if answer := self._guard.origins.preflight(request):
            return answer
        # Before anything is said of the path: what there is here is nobody's business who is not let in.
        scope, stream = (op.scope, op.stream) if op else ("read", False)
        request[CALLER] = await self._guard.authorize(request, scope)
        if scope is not None and (admitted := ORIGIN.get()):
            ORIGIN.set(admitted._replace(stranger=""))
        check_head(request)
        if scope is None:
            return await in_chunks(request, await handler(request))
        # Only admitted requests count as use: scanners must not keep the instance alive, nor a page that was left open.
        use = (op is None or op.use) and not (request.method in SAFE and _REFRESH in request.headers)
        if use and stream:
            self._use.used()
        with (
            self._use.in_use() if use and not stream else nullcontext(),
            self._guard.admit_request(request, scope, stream=stream),
        ):
            return await in_chunks(request, await handler(request))

    def _rendered(self, request: web.Request, problem: Problem) -> web.Response:
        if _asks_whether_it_is_there(request, problem):
            return self._login_page(root=relative_root(request.path))
        if not _by_a_person(request):
            return problems.render(problem)
        if isinstance(problem, Unauthenticated) and request.method == "GET":
            return self._login_page(problem, destination=request.path_qs, first=True, root=relative_root(request.path))
        return self._error_page(request, problem)

    def _write_later(self, request: web.Request, op: Operation | None) -> None:
        """Note what comes of a command whose caller has gone: what it has begun is carried out all the same."""
        command = request.get(COMMAND)
        if command is None:
            self._write(request, op, _GONE, None)
            return

        def write(done: asyncio.Future[web.StreamResponse]) -> None:
            audit_details(request, abandoned=True)
            error = asyncio.CancelledError() if done.cancelled() else done.exception()
            if isinstance(error, Problem):
                self._write(request, op, error.status, error)
            elif error is None:
                self._write(request, op, done.result().status, None)
            else:
                self._write(request, op, _GONE, None)

        command.add_done_callback(write)

    def _write(self, request: web.Request, op: Operation | None, status: int, problem: Problem | None) -> None:
        """Note a change, or an attempt that was refused."""
        caller = request.get(CALLER, NO_CALLER)
        audit_details(request, **{_SAID.get(name, name): text[:_SHOWN] for name, text in request.match_info.items()})
        denied = isinstance(problem, Denied)
        refused = denied or status in _REFUSALS
        if refused:
            self._meters.refused(status, denied=denied)
        details: dict[str, Any] = request.get(DETAILS, {})
        self._audit.write(
            AuditEvent(
                action=op.name if op else f"{request.method} {request.path[:200]}",
                outcome="refused" if refused else _outcome(status),
                status=status,
                caller=details.pop("caller", caller.name),
                method=caller.method,
                address=self._guard.origins.address(request),
                request_id=request[begun.HEADERS][_REQUEST_ID],
                details=details,
                # The detail of an error may quote what was sent, and that may be a secret.
                reason="" if problem is None else problem.detail if refused else problem.title,
            ),
            sparingly=refused or caller is NO_CALLER,
        )


def _failure(request: web.Request, exc: Exception) -> Problem:
    """Return the error that a caller gets for one of the server's own, which is logged."""
    path = request.rel_url.raw_path
    if isinstance(exc, MemoryError):
        log.error("a request failed: there is no memory left for it", path=path)
        return Overloaded("There is not enough memory for this just now.")
    if isinstance(exc, OSError) and exc.errno in _NO_DESCRIPTORS:
        log.error("a request failed: the server may open no more files (ulimit -n)", path=path)
        return Overloaded("The server has as many open files as it may have just now (ulimit -n).")
    log.error("a request failed", method=request.method, path=path, exc_info=exc)
    return Problem("The server failed; its log says how.")


def _size(response: web.StreamResponse) -> int:
    """How many bytes an answer has, which may not be sent yet."""
    return response.body_length if response.prepared else response.content_length or 0


def _outcome(status: int) -> Outcome:
    return "abandoned" if status == _GONE else "done" if status < 400 else "failed"


def _cut_off(request: web.Request) -> web.StreamResponse | None:
    """Cut an answer off that is on its way already, so that nobody takes it for whole; None when there is none."""
    under_way: web.StreamResponse | None = request.get(begun.STARTED)
    if under_way is not None and request.transport is not None:
        request.transport.abort()
    return under_way


def _asks_whether_it_is_there(request: web.Request, problem: Problem) -> bool:
    """Whether ``GET /`` shows no credential: the login page is its answer, and no error.

    The Flux Operator's SDK and flux-cloud wait for 200 there until they take the server for started.
    """
    return (
        isinstance(problem, Unauthenticated)
        and request.path == "/"
        and request.method in ("GET", "HEAD")
        and hdrs.AUTHORIZATION not in request.headers
        and _REFRESH not in request.headers  # or a page would be replaced by it
        and takes_html(request)
    )


def _by_a_person(request: web.Request) -> bool:
    """Whether a browser has asked for a page, to show it; what the API answers is for programs."""
    return not request.path.startswith("/v1/") and prefers_html(request)
