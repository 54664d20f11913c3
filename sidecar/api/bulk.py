"""``POST /v1/jobs/bulk``: many jobs in one request, a result for each."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Annotated

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta

from sidecar.api.bulkline import INVALID, BulkLine, check_beginning, decode
from sidecar.api.idempotency import KEY, key_of
from sidecar.api.window import AdaptiveLimit
from sidecar.auth.caller import Caller
from sidecar.auth.guard import ADMISSION, caller_of
from sidecar.domain.errors import InvalidRequest, Problem, ProblemBody, UnsupportedMediaType
from sidecar.http.audit import audit_details
from sidecar.http.body import BODIES, Bodies, check_charset
from sidecar.http.body_lines import Line, Lines
from sidecar.http.faults import quote
from sidecar.http.negotiation import NDJSON
from sidecar.http.operations import Answer, operation
from sidecar.http.responses import is_closed, start_response
from sidecar.http.streaming import ANSWERS, send
from sidecar.instance import Instance
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.submissions import Submissions, check_key

log = structlog.get_logger("server")

_MEDIA = (
    NDJSON,
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/json",
    "text/plain",
    "application/octet-stream",
)
_CURL = "application/x-www-form-urlencoded"  # what `curl --data-binary` says of everything
_GONE = 30.0  # seconds that submits in flight may take after the client has disconnected; the audit counts them
_UNSENT = 8 * 1024 * 1024  # bytes of results that wait for a client to read them
_STRETCH = 64 * 1024  # bytes of lines that are begun before other requests get their turn
_LINE = 4 * 1024  # bytes that take as long as a line takes, however short it is
_FEW = 64 * 1024  # of these, as the connection has anyway


class BulkResult(msgspec.Struct, omit_defaults=True):
    """What became of one line: the job, or why there is none."""

    line: Annotated[int, Meta(description="its number, from 1")]
    status: Annotated[int, Meta(description="as for POST /v1/jobs/submit")]
    id: int | None = None
    f58id: str | None = None
    replayed: Annotated[bool, Meta(description="the job was submitted by an earlier request with this key")] = False
    problem: ProblemBody | None = None


class Bulk:
    """Takes many jobs at once.

    Args:
        instance: takes the jobs.
        lifecycle: says whether it still does.
        submissions: the way into it.
        longest_line: in bytes.
        in_flight: how many lines are on their way at once, at most.
    """

    tag = "jobs"

    def __init__(
        self,
        instance: Instance,
        lifecycle: Lifecycle,
        submissions: Submissions,
        *,
        longest_line: int,
        in_flight: int,
    ) -> None:
        self._instance = instance
        self._lifecycle = lifecycle
        self._submissions = submissions
        self._longest_line = longest_line
        self._in_flight = in_flight

    @operation(
        "POST",
        "/v1/jobs/bulk",
        scope="submit",
        lines=BulkLine,
        headers={KEY: "the key of each line that has none of its own is this, a colon and the line's number"},
        answers=(Answer("A result for each line, in their order, as they are known", BulkResult, (NDJSON,)),),
        errors=(400, 409, 415, 503),
    )
    async def bulk(self, request: web.Request) -> web.StreamResponse:
        """Submit many jobs: a JSON object a line (NDJSON), each as for POST /v1/jobs/submit.

        The answer has a line for each line, in their order, with its number: id and f58id, or a problem. A line that
        is wrong does not stop the others; empty lines are passed over. A body without any job is 400, as the problem
        of a line where the answer has begun before. Results come as they are known, while more lines are still read.
        What was accepted stays accepted when a caller goes away midway; with an Idempotency-Key the whole request can
        be repeated then. A request that sends nothing for --body-timeout ends with the problem 408 in the result of
        its next line; an empty line now and then keeps it open. It counts as a stream of its caller.
        """
        self._lifecycle.require_running()
        self._instance.status.require_ready()
        if request.content_type not in (*_MEDIA, _CURL):
            raise UnsupportedMediaType(f"A body of type {quote(request.content_type)} is not read here; send {NDJSON}.")
        check_charset(request)
        if (key := key_of(request)) is not None:
            check_key(key)
        with request[ADMISSION].as_stream(), Lines(request, self._longest_line) as lines:
            # A client that sends chunks may wait for the answer to begin, unless it has sent all of them.
            if request.content_length is not None or request.content.is_eof():
                check_beginning(await lines.begin())
            return await self._carry_out(request, lines)

    async def _carry_out(self, request: web.Request, lines: Lines) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await start_response(request, response)
        results = _Results(request, response)
        sending = asyncio.create_task(results.send())
        try:
            async with request[ADMISSION].while_authorized():
                await self._read(request, lines, results)
        except BaseException:  # disconnected, or no longer authorized: no results are sent
            results.close()
            await asyncio.wait([sending], timeout=_GONE)
            raise
        else:
            results.close()
            await self._rest(sending)
        finally:
            # What is on its way into Flux arrives there all the same.
            sending.cancel()
            audit_details(request, **results.tally)
        await response.write_eof()
        return response

    async def _rest(self, sending: asyncio.Task[None]) -> None:
        """Wait until the last result has been sent; each line has its own time-outs, and so has a slow reader."""
        try:
            await asyncio.wait([sending])
        except asyncio.CancelledError:
            await asyncio.wait([sending], timeout=_GONE)
            raise

    async def _read(self, request: web.Request, lines: Lines, results: _Results) -> None:
        """Submit line after line, many at once; the results are awaited in the lines' order."""
        window = AdaptiveLimit(self._in_flight)
        key, caller = key_of(request), caller_of(request)
        bodies, stretch = request.app[BODIES], 0

        async def submit(line: Line) -> BulkResult:
            begun = time.monotonic()
            try:
                return await self._line(bodies, line, key, caller)
            finally:
                window.leave(time.monotonic() - begun, line.weight)
                lines.done(line)

        async for line in lines:
            if is_closed(request):
                return  # of what was not begun nothing is: the request can be repeated
            await results.room()
            await self._submissions.ease(lambda: window.inside)
            await lines.weigh(line, BulkLine, INVALID)
            await window.enter(line.weight)
            results.add(asyncio.create_task(submit(line)))
            stretch += _LINE + line.weight
            if stretch > _STRETCH:
                stretch = 0
                await bodies.give_way()

    async def _line(self, bodies: Bodies, line: Line, key: str | None, caller: Caller) -> BulkResult:
        number = line.number
        try:
            if line.problem is not None:
                raise line.problem
            async with bodies.decoding(line.weight):
                request = decode(line)
            if request.is_launcher:
                raise InvalidRequest("is_launcher: a launcher is no job; use POST /v1/jobs/submit.")
            self._lifecycle.require_running()
            self._instance.status.require_ready()
            own = f"{key}:{number}" if key is not None else None
            if request.idempotency_key is not None:
                check_key(own := request.idempotency_key, "idempotency_key")
            request.idempotency_key = None  # not a part of what is compared when the line is repeated
            job = await self._submissions.submit(request, own, caller)
        except Problem as exc:
            return BulkResult(number, exc.status, problem=exc.body())
        except Exception:  # the other lines go on, as after any wrong one
            log.exception("a line of a bulk submit failed", line=number)
            return BulkResult(number, 500, problem=Problem("The server failed; its log says how.").body())
        return BulkResult(number, 200, job.id, job.f58id, job.replayed)


class _Results:
    """Results in the lines' order, sent as they are known.

    Sending does not hold up reading: a client that sends its whole request before it reads anything must not be waited
    for by a server that wants it to read first. That ends where what is kept for it becomes much, or what is kept for
    all callers.

    Args:
        request: whose results they are.
        response: takes them.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._response = response
        answers = request.app[ANSWERS]
        self._held = answers.budget.hold(answers.name(request))
        self._tasks: deque[asyncio.Task[BulkResult]] = deque()
        self._unsent = bytearray()
        self._sending = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._gone = self._closed = False
        self.tally: dict[str, int | str] = {}
        """How many lines were accepted and refused, the first job and the last: what the audit says of them."""

    def add(self, task: asyncio.Task[BulkResult]) -> None:
        self._tasks.append(task)
        task.add_done_callback(self._collect)

    @property
    def _size(self) -> int:
        return len(self._unsent) + self._sending

    async def room(self) -> None:
        """Wait until less is kept than is too much."""
        while self._size > _UNSENT or (self._size > _FEW and self._held.over):
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Say that no more will come."""
        self._closed = True
        self._more.set()

    def _collect(self, _: object) -> None:
        """Take the results that are known, up to the first line whose is not."""
        while self._tasks and self._tasks[0].done():
            line = self._tell(self._tasks.popleft().result())
            if not self._gone:
                self._unsent += line
        self._held.count(self._size)
        self._more.set()

    def _tell(self, result: BulkResult) -> bytes:
        if result.f58id is None:
            self.tally["refused"] = int(self.tally.get("refused", 0)) + 1
        else:
            self.tally["accepted"] = int(self.tally.get("accepted", 0)) + 1
            self.tally.setdefault("first", result.f58id)
            self.tally["last"] = result.f58id
        return msgspec.json.encode(result) + b"\n"

    async def send(self) -> None:
        """Send results until there are no more."""
        with self._held:
            while not self._closed or self._tasks:
                await self._more.wait()
                self._more.clear()
                while self._unsent:
                    await self._send()

    async def _send(self) -> None:
        data, self._unsent = self._unsent, bytearray()
        self._sending = len(data)
        try:
            await send(self._response, data)
        except ConnectionError:
            self._gone = True  # the jobs are submitted all the same
            self._unsent.clear()
        self._sending = 0
        self._held.count(self._size)
        self._room.set()
