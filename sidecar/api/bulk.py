"""``POST /v1/jobs/bulk``: many jobs in one request, with a result for each."""

from __future__ import annotations

import asyncio
import time

import structlog
from aiohttp import web

from sidecar.api.bulkline import BulkLine, check_beginning, decode
from sidecar.api.bulkresults import BulkResult, BulkResults
from sidecar.api.fields import INVALID_SUBMIT
from sidecar.api.idempotency import KEY, key_of
from sidecar.api.window import AdaptiveLimit
from sidecar.auth.caller import Caller
from sidecar.auth.guard import ADMISSION, caller_of
from sidecar.domain.errors import InvalidRequest, Problem, UnsupportedMediaType
from sidecar.http.audit import audit_details
from sidecar.http.body import BODIES, Bodies, check_charset
from sidecar.http.body_lines import Line, Lines
from sidecar.http.faults import quote
from sidecar.http.negotiation import NDJSON
from sidecar.http.operations import Answer, operation
from sidecar.http.responses import is_closed, start_response
from sidecar.services.submissions import check_key
from sidecar.services.submit import SubmitService

log = structlog.get_logger("server")

_MEDIA = (
    NDJSON,
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/json",
    "text/plain",
    "application/octet-stream",
    "application/x-www-form-urlencoded",  # the Content-Type that `curl --data-binary` sets by default
)
_ABANDONED = 30.0  # seconds that submits in flight may take after the client has disconnected; the audit counts them
_BATCH = 64 * 1024  # bytes of lines that are started before other requests get their turn
_LINE = 4 * 1024  # a line of any size costs as much time as so many bytes


class Bulk:
    """Submit many jobs in one request.

    Args:
        service: accepts the jobs.
        longest_line: maximum size of a line, in bytes.
        in_flight: maximum number of lines that Flux has not answered yet.
    """

    tag = "jobs"

    def __init__(self, service: SubmitService, *, longest_line: int, in_flight: int) -> None:
        self._service = service
        self._longest_line = longest_line
        self._in_flight = in_flight

    @operation(
        "POST",
        "/v1/jobs/bulk",
        scope="submit",
        lines=BulkLine,
        headers={KEY: "the key of each line without one of its own is this key, a colon and the line number"},
        answers=(Answer("A result for each line, in their order, as they are known", BulkResult, (NDJSON,)),),
        errors=(400, 409, 415, 503),
    )
    async def bulk(self, request: web.Request) -> web.StreamResponse:
        """Submit many jobs: one JSON object per line (NDJSON), each as for POST /v1/jobs/submit.

        The response has a line for each line of the body, in the same order and with its number: id and f58id, or a
        problem. An invalid line does not stop the others; empty lines are ignored. A body without any job is 400; if
        the response has started by then, it is a line with that problem. Results are sent while more lines are read.
        Jobs that were accepted stay accepted when the client disconnects midway; with an Idempotency-Key the whole
        request can be repeated then. A request that sends nothing for --body-timeout ends with the problem 408 in the
        result of its next line; an empty line now and then keeps it open. It counts as a stream of its caller.
        """
        self._service.require_accepting()
        if request.content_type not in _MEDIA:
            raise UnsupportedMediaType(f"A body of type {quote(request.content_type)} is not supported; send {NDJSON}.")
        check_charset(request)
        if (key := key_of(request)) is not None:
            check_key(key)
        with request[ADMISSION].as_stream(), Lines(request, self._longest_line) as lines:
            # A client that sends in chunks may wait for the response to start, unless it has sent all of them.
            if request.content_length is not None or request.content.is_eof():
                check_beginning(await lines.begin())
            return await self._carry_out(request, lines)

    async def _carry_out(self, request: web.Request, lines: Lines) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await start_response(request, response)
        results = BulkResults(request, response)
        sending = asyncio.create_task(results.send())
        try:
            async with request[ADMISSION].while_authorized():
                await self._submit_lines(request, lines, results)
        except BaseException:  # disconnected, or no longer authorized: no results are sent
            results.close()
            await asyncio.wait([sending], timeout=_ABANDONED)
            raise
        else:
            results.close()
            await self._wait_sent(sending)
        finally:
            sending.cancel()  # submits in flight are carried out all the same
            audit_details(request, **results.summary)
        await response.write_eof()
        return response

    async def _wait_sent(self, sending: asyncio.Task[None]) -> None:
        """Wait until the last result is sent; each line has its own timeout, and so has a slow reader."""
        try:
            await asyncio.wait([sending])
        except asyncio.CancelledError:
            await asyncio.wait([sending], timeout=_ABANDONED)
            raise

    async def _submit_lines(self, request: web.Request, lines: Lines, results: BulkResults) -> None:
        """Submit line after line, many at the same time; the results are sent in the order of the lines."""
        limit = AdaptiveLimit(self._in_flight)
        key, caller = key_of(request), caller_of(request)
        bodies, batch = request.app[BODIES], 0

        async def submit(line: Line) -> BulkResult:
            started = time.monotonic()
            try:
                return await self._submit(bodies, line, key, caller)
            finally:
                limit.release(time.monotonic() - started, line.weight)
                lines.done(line)

        async for line in lines:
            if is_closed(request):
                return  # the lines that are left are not submitted; the request can be repeated
            await results.wait_for_room()
            await self._service.ease(lambda: limit.in_use)
            await lines.weigh(line, BulkLine, INVALID_SUBMIT)
            await limit.acquire(line.weight)
            results.add(asyncio.create_task(submit(line)))
            batch += _LINE + line.weight
            if batch > _BATCH:
                batch = 0
                await bodies.give_way()

    async def _submit(self, bodies: Bodies, line: Line, key: str | None, caller: Caller) -> BulkResult:
        number = line.number
        try:
            if line.problem is not None:
                raise line.problem
            async with bodies.decoding(line.weight):
                request = decode(line)
            if request.is_launcher:
                raise InvalidRequest("is_launcher: a launcher is not a job; use POST /v1/jobs/submit.")
            own_key = f"{key}:{number}" if key is not None else None
            if request.idempotency_key is not None:
                check_key(own_key := request.idempotency_key, "idempotency_key")
            request.idempotency_key = None  # not part of the comparison when the line is repeated
            job = await self._service.submit(request, own_key, caller)
        except Problem as exc:
            return BulkResult(number, exc.status, problem=exc.body())
        except Exception:  # the other lines continue, as after any invalid line
            log.exception("a line of a bulk submit failed", line=number)
            return BulkResult(number, 500, problem=Problem("The server failed; see its log for the cause.").body())
        return BulkResult(number, 200, job.id, job.f58id, job.replayed)
