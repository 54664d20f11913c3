"""``/v1/jobs/{uid}/output``: the output of a job so far, and as a live stream."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.lines import ByteOutput, OutputBody, beginning, body_of, bytes_of, chained, events_of
from sidecar.domain.output import Stream
from sidecar.http.negotiation import MEDIA_TYPE
from sidecar.http.operations import Answer, operation
from sidecar.http.sse import AFTER, EVENT_STREAM, EventStream, StreamLimits, TextStream
from sidecar.http.streaming import stream_chunks
from sidecar.services.job_output import JobOutputs, OpenedOutput
from sidecar.services.live_output import LiveOutputs
from sidecar.services.lookup import JobLookup
from sidecar.services.output_log import Cursor, resume
from sidecar.services.output_tail import IN_VAIN, tail

#: The media types of a job's bytes. Without a charset clients read text as ISO 8859-1, the default of RFC 2616.
RAW = {"text/plain": "text/plain; charset=utf-8", "application/octet-stream": "application/octet-stream"}
_Sink = EventStream | TextStream
_FEWER = (
    f"Only the last {IN_VAIN >> 20} MiB of the job's log were searched: this begins with fewer lines than requested. "
    "Use after=0 to read all of them."
)


class OutputQuery(msgspec.Struct, kw_only=True, frozen=True):
    """The stream to read."""

    stream: Annotated[
        Literal["stdout", "stderr", "both", "log"],
        Meta(description="the stream; log: messages of the job's shell, such as warnings, as lines of text"),
    ] = "both"


class StreamQuery(OutputQuery, kw_only=True, frozen=True):
    """The stream to follow, and from where."""

    follow: Annotated[bool, Meta(description="continue until the job has ended; false: the output so far")] = True
    tail: Annotated[int, Meta(ge=0, description="start with this many last lines; all when absent")] | None = None
    after: Annotated[str | None, AFTER] = None


class _ByteStream(TextStream):
    """A job's output as bytes, and which of them were sent."""

    def __init__(self, limits: StreamLimits, content_type: str, stream: Stream) -> None:
        super().__init__(limits, content_type)
        self.output = ByteOutput(stream)


class JobOutput:
    """Read and follow the output of jobs.

    Args:
        lookup: finds the jobs.
        outputs: opens the output of a job.
        live: notifies of new output.
        limits: timeouts of streams.
    """

    tag = "jobs"

    def __init__(self, lookup: JobLookup, outputs: JobOutputs, live: LiveOutputs, limits: StreamLimits) -> None:
        self._lookup = lookup
        self._outputs = outputs
        self._live = live
        self._limits = limits

    @operation(
        "GET",
        "/v1/jobs/{uid}/output",
        query=OutputQuery,
        compress=True,
        answers=(
            Answer("The lines so far; as plain text for Accept: text/plain", OutputBody, ("application/json", *RAW)),
        ),
        errors=(400, 404, 410, 503),
    )
    async def output(self, request: web.Request, jobid: int, query: OutputQuery) -> web.StreamResponse:
        """Read a job's output so far.

        The response does not wait for the job. For Accept: text/plain or application/octet-stream the body is what the
        job wrote, byte by byte; with stream=log it has the messages of its shell. Message says why there are no lines;
        410: Flux has purged the output, with the job. A long output is sent while it is read: an error in the middle
        breaks the connection. A line of more than 1 MiB is sent in parts, of which only the last ends with a newline.
        """
        opened = await self._outputs.open(jobid)
        cursor, end = opened.cursor(), opened.end
        media = request[MEDIA_TYPE]

        async def why(shell_log: bool) -> str:
            return await self._outputs.why_empty(jobid, query.stream, cursor.redirected, shell_log=shell_log)

        chunks = bytes_of(cursor, end, query.stream) if media in RAW else body_of(cursor, end, query.stream, why)
        headers = {"Content-Type": RAW.get(media, media)}
        first, complete = await beginning(chunks)
        if not complete:
            return await stream_chunks(request, chained(first, chunks), headers)
        return web.Response(body=first, headers=headers)

    @operation(
        "GET",
        "/v1/jobs/{uid}/output/stream",
        stream=True,
        query=StreamQuery,
        headers={"Last-Event-ID": "id of the last line that was read; the stream continues after it"},
        answers=(Answer("Server-sent events, one for each line; or the lines as text", media=(EVENT_STREAM, *RAW)),),
        errors=(400, 404, 410, 503),
    )
    async def stream(self, request: web.Request, jobid: int, query: StreamQuery) -> web.StreamResponse:
        """Follow a job's output to its end.

        data is {"stream", "rank", "data"}. The id is the number of lines so far and resumes the stream, also after a
        restart of the server. An event named log is a message of the job's shell, {"level", "message", "rank"}, and one
        named redirect names a stream that goes to a file, {"stream", "rank", "path"}; both count as lines. With tail
        only the end of a long output is read: then an id is PLACE-NUMBER, the lines after a place in the log, and
        resumes in the same way. The tail is searched within a limit (256 MiB that other streams wrote): if the limit
        ends the search, an event named notice says that there may be fewer lines than requested. A line of more than 1
        MiB is sent in parts, each with its own id; only the last ends with a newline. An event named end is the last;
        with the reason ended it has the job's result and returncode. For Accept: text/plain or application/octet-stream
        the body is what the job writes, byte by byte; there the end of the body may be that of the job or of the
        connection.
        """
        opened = await self._outputs.open(jobid)
        cursor = await _start(request, query, opened)
        sink = self._sink(request, query)
        if request.method == "HEAD":
            return web.Response(headers={"Content-Type": sink.headers["Content-Type"]})
        await sink.begin(request, cursor.position if cursor else None)
        return await sink.run(self._send(sink, jobid, query, opened, cursor))

    def _sink(self, request: web.Request, query: StreamQuery) -> _Sink:
        media = request[MEDIA_TYPE]
        return _ByteStream(self._limits, RAW[media], query.stream) if media in RAW else EventStream(self._limits)

    async def _send(
        self, sink: _Sink, jobid: int, query: StreamQuery, opened: OpenedOutput, cursor: Cursor | None
    ) -> None:
        """Send the requested lines; without a cursor the last ones, which may take a while to find."""
        stream = _stream_of(sink, query)
        if cursor is None:
            cursor, enough = await tail(opened.log, query.tail or 0, stream, opened.end, rest=opened.complete)
            await sink.start(cursor.position)
            if not enough:
                await sink.notice(_FEWER)
        if query.follow:
            await self._follow(sink, jobid, cursor, stream)
            return
        while await self._push(sink, cursor, stream, opened.end, rest=opened.complete):
            pass
        reason = "ended" if opened.complete else "so far"
        await sink.end(reason=reason, **await self._lookup.end_fields(jobid))

    async def _follow(self, sink: _Sink, jobid: int, cursor: Cursor, stream: Stream) -> None:
        """Send the lines so far, and new ones until the job has ended."""
        live = self._live.join(jobid)
        try:
            while True:
                ended, end = live.ended, live.count
                if await self._push(sink, cursor, stream, end, rest=ended):
                    continue
                if ended:
                    await sink.end(reason="ended", **await self._lookup.end_fields(jobid))
                    return
                await live.wait(end)
        finally:
            self._live.leave(jobid)

    async def _push(self, sink: _Sink, cursor: Cursor, stream: Stream, end: int, *, rest: bool) -> bool:
        """Send some lines; return whether there were any."""
        first, runs = await cursor.read(end, rest=rest)
        if not runs:
            if isinstance(sink, _ByteStream) and not rest and (data := sink.output.incomplete(cursor.incomplete)):
                await sink.push(data)
            return False
        if isinstance(sink, _ByteStream):
            data = sink.output.lines(runs)
        else:
            data = await events_of(cursor, first, runs, stream)
        del runs  # while a slow reader is sent the data, only the data is held in memory
        await sink.push(data)
        await asyncio.sleep(0)
        return True


async def _start(request: web.Request, query: StreamQuery, opened: OpenedOutput) -> Cursor | None:
    """Return the cursor at which a stream starts; None: at the last lines."""
    for name, text in (("Last-Event-ID", request.headers.get("Last-Event-ID")), ("after", query.after)):
        if text:
            return await resume(opened.log, text, name, opened.end, rest=opened.complete)
    return opened.cursor() if query.tail is None else None


def _stream_of(sink: _Sink, query: StreamQuery) -> Stream:
    """Return the stream to send; events include the messages of the job's shell, each under a name of its own."""
    return "all" if query.stream == "both" and isinstance(sink, EventStream) else query.stream
