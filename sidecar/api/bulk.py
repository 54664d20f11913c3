"""``POST /v1/jobs/bulk``: many jobs in one request, a result for each."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta

from sidecar.api import fields
from sidecar.api.begun import begin
from sidecar.api.jobs import NDJSON
from sidecar.api.pieces import send
from sidecar.api.routing import Answer, json_object, operation
from sidecar.api.submit import KEY
from sidecar.api.window import Window
from sidecar.audit import note
from sidecar.auth.caller import Caller
from sidecar.auth.guard import PLACE, caller_of
from sidecar.errors import InvalidRequest, Problem, ProblemBody, TooLarge, UnsupportedMediaType
from sidecar.instance import Instance
from sidecar.lifecycle import Lifecycle
from sidecar.model import JobRequest
from sidecar.submissions import Submissions, check_key

log = structlog.get_logger("server")

_INVALID = "Invalid submit request"
_MEDIA = (NDJSON, "application/jsonl", "application/json", "text/plain", "application/octet-stream")
_CURL = "application/x-www-form-urlencoded"  # what `curl --data-binary` says of everything
_UNSENT = 8 * 1024 * 1024  # bytes of results that wait for a client to read them


class BulkLine(JobRequest, kw_only=True, forbid_unknown_fields=True):
    """One job of many."""

    idempotency_key: Annotated[
        str | None,
        Meta(description="makes it safe to repeat this line; default: the header's key, and the line number"),
    ] = None


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
        is wrong does not stop the others; empty lines are passed over. Results come as they are known, while more
        lines are still read. What was accepted stays accepted when a caller goes away midway; with an
        Idempotency-Key the whole request can be repeated then.
        """
        self._lifecycle.require_running()
        self._instance.status.require()
        if request.content_type not in (*_MEDIA, _CURL):
            raise UnsupportedMediaType(f"A body of type {request.content_type} is not read here; send {NDJSON}.")
        if (key := request.headers.get(KEY)) is not None:
            check_key(key)
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await begin(request, response)
        results = _Results(request, response)
        sending = asyncio.create_task(results.send())
        try:
            async with request[PLACE].held():
                await self._read(request, results)
        finally:
            # A caller who has gone gets no results, and what is on its way into Flux arrives there all the same.
            results.close()
            await asyncio.wait([sending])
            note(request, **results.tally)
        await response.write_eof()
        return response

    async def _read(self, request: web.Request, results: _Results) -> None:
        """Submit line after line, many at once; the results are awaited in the lines' order."""
        window = Window(self._in_flight)
        key, caller = request.headers.get(KEY), caller_of(request)
        async for number, raw in _lines(request, self._longest_line):
            await results.room()
            await window.enter()
            results.add(asyncio.create_task(self._within(window, number, raw, key, caller)))

    async def _within(
        self, window: Window, number: int, raw: bytes | None, key: str | None, caller: Caller
    ) -> BulkResult:
        begun = time.monotonic()
        try:
            return await self._line(number, raw, key, caller)
        finally:
            window.leave(time.monotonic() - begun)

    async def _line(self, number: int, raw: bytes | None, key: str | None, caller: Caller) -> BulkResult:
        try:
            if raw is None:
                raise TooLarge(f"The line is longer than the limit of {self._longest_line} bytes (--max-body).")
            request = _decode(raw)
            if request.is_launcher:
                raise InvalidRequest("is_launcher: a launcher is no job; use POST /v1/jobs/submit.")
            self._lifecycle.require_running()
            self._instance.status.require()
            own = request.idempotency_key or (f"{key}:{number}" if key is not None else None)
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
    for by a server that wants it to read first. That ends where what is kept for it becomes much.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._tasks: deque[asyncio.Task[BulkResult]] = deque()
        self._unsent = bytearray()
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._gone = self._closed = False
        self.tally: dict[str, int | str] = {}
        """How many lines were accepted and refused, the first job and the last: what the audit says of them."""

    def add(self, task: asyncio.Task[BulkResult]) -> None:
        self._tasks.append(task)
        task.add_done_callback(self._collect)

    async def room(self) -> None:
        """Wait until less is kept than is too much."""
        while len(self._unsent) > _UNSENT:
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
        while True:
            await self._more.wait()
            self._more.clear()
            while self._unsent:
                data = bytes(self._unsent)
                self._unsent.clear()
                try:
                    await send(self._request, self._response, data)
                except ConnectionError:
                    self._gone = True  # the jobs are submitted all the same
                    self._unsent.clear()
                self._room.set()
            if self._closed and not self._tasks:
                return


def _decode(raw: bytes) -> BulkLine:
    found = fields.decode_json(BulkLine, raw)
    if found is None:
        found = fields.decode(BulkLine, json_object(raw), text=frozenset(), message=_INVALID)
    return found


async def _lines(request: web.Request, longest: int) -> AsyncIterator[tuple[int, bytes | None]]:
    """Yield number and text of each line that is not empty; None for one that is too long, which is passed over."""
    number, rest = 0, bytearray()
    too_long = False
    async for data in request.content.iter_any():
        rest += data
        *lines, tail = rest.split(b"\n")
        for line in lines:
            number += 1
            if too_long or len(line) > longest:
                yield number, None
            elif line.strip():
                yield number, bytes(line)
            too_long = False
        rest = bytearray(tail)
        if len(rest) > longest:
            too_long = True
            rest.clear()
    if too_long or rest.strip():
        yield number + 1, None if too_long else bytes(rest)
