"""``/v1/jobs/{uid}/output``: what a job has written so far, at once, or as it comes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta

from sidecar.api.lines import OutputBody, Written, beginning, body_of, bytes_of, chained, events_of
from sidecar.api.lookup import ending, require
from sidecar.domain import restored
from sidecar.domain.errors import Gone
from sidecar.domain.model import Job
from sidecar.domain.output import Stream
from sidecar.http.negotiation import WANTED
from sidecar.http.operations import Answer, operation
from sidecar.http.sse import AFTER, EVENT_STREAM, EventStream, StreamLimits, TextStream
from sidecar.http.streaming import stream_chunks
from sidecar.journal.feed import Feed
from sidecar.services.live_output import LiveOutputs
from sidecar.services.output_log import Cursor, OutputLog, resume
from sidecar.services.output_tail import IN_VAIN, tail
from sidecar.store import Store

#: What a job's bytes are sent as. Without a charset clients take text for ISO 8859-1, as RFC 2616 had it.
RAW = {"text/plain": "text/plain; charset=utf-8", "application/octet-stream": "application/octet-stream"}
_Sink = EventStream | TextStream
_NOT_YET = "The output does not exist yet"
_FEWER = (
    f"Only the last {IN_VAIN >> 20} MiB of the job's log were searched: this begins with fewer lines than asked for. "
    "Use after=0 to read all of them."
)


class OutputQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Which output."""

    stream: Annotated[
        Literal["stdout", "stderr", "both", "log"],
        Meta(description="which stream; log: what the job's shell says, such as warnings, as lines of text"),
    ] = "both"


class StreamQuery(OutputQuery, kw_only=True, frozen=True):
    """Which output, and how long."""

    follow: Annotated[bool, Meta(description="go on until the job has ended; false: what there is so far")] = True
    tail: Annotated[int, Meta(ge=0, description="begin with the last so many lines; all when absent")] | None = None
    after: Annotated[str | None, AFTER] = None


class _BytesStream(TextStream):
    """A job's output as bytes, and what of it was sent."""

    def __init__(self, pace: StreamLimits, content_type: str, stream: Stream) -> None:
        super().__init__(pace, content_type)
        self.written = Written(stream)


class JobOutput:
    """The output of jobs."""

    tag = "jobs"

    def __init__(self, store: Store, feed: Feed, followers: LiveOutputs, pace: StreamLimits) -> None:
        self._store = store
        self._feed = feed
        self._followers = followers
        self._pace = pace

    @operation(
        "GET",
        "/v1/jobs/{uid}/output",
        query=OutputQuery,
        answers=(
            Answer(
                "The lines so far; as they are for Accept: text/plain",
                OutputBody,
                ("application/json", *RAW),
            ),
        ),
        errors=(400, 404, 410, 503),
    )
    async def output(self, request: web.Request, job: int, query: OutputQuery) -> web.StreamResponse:
        """Read a job's output so far.

        Answers at once, whether the job runs or not. For Accept: text/plain or application/octet-stream the body is
        what the job wrote, byte by byte; there stream=log tells what its shell says. Where there is no line, Message
        says why; 410: Flux has purged the output, with the job. A long output is sent as it is read: an error in the
        middle breaks the connection off. A line of more than 1 MiB comes in parts, and only the last of them ends with
        a newline.
        """
        cursor, end, _ = await self._open(job)
        wanted = request[WANTED]

        async def why(said: bool) -> str:
            return await self._why_empty(job, query.stream, cursor.redirected, said=said)

        raw = wanted in RAW
        pieces = bytes_of(cursor, end, query.stream) if raw else body_of(cursor, end, query.stream, why)
        headers = {"Content-Type": RAW.get(wanted, wanted)}
        first, whole = await beginning(pieces)
        if not whole:
            return await stream_chunks(request, chained(first, pieces), headers)
        return web.Response(body=first, headers=headers)

    async def written(self, request: web.Request, job: int, headers: dict[str, str]) -> web.StreamResponse:
        """Answer with what a job has written so far, byte by byte.

        Raises:
            NotFound: there is no such job.
        """
        cursor, end, _ = await self._open(job)
        return await stream_chunks(request, bytes_of(cursor, end, "both"), headers)

    async def _open(self, job: int) -> tuple[Cursor, int, bool]:
        """Return the first place of a job's log as it is now, how many pieces it has, and whether that is all."""
        state = await require(self._store, self._feed, job)
        output = self._followers.logs.open(job)
        try:
            await output.refresh()
        except Gone:
            if output.count == 0 and (await self._job(job)).t_run is not UNSET:
                raise
        return Cursor(output), output.count, state == "INACTIVE"

    async def _job(self, job: int) -> Job:
        return restored.job(await self._store.job(job) or b"", job)

    async def _why_empty(self, job: int, stream: Stream, redirected: dict[str, str], *, said: bool) -> str:
        """Return why there is no line of a stream.

        Args:
            job: the job ID.
            stream: what was asked for.
            redirected: the path of each stream that goes to a file.
            said: whether the job's shell has said something: a limit may have cut all lines.
        """
        found = await self._job(job)
        ended = found.state == "INACTIVE"
        if found.t_run is UNSET:
            return "There is no output: the job never ran." if ended else f"{_NOT_YET}: the job has not started."
        if places := [f"{each} to {path}" for each, path in redirected.items() if stream in ("both", each)]:
            return f"The output does not exist here: the job writes {', '.join(places)}."
        to = "" if stream == "both" else f" to {stream}"
        what = "the job's shell has said nothing" if stream == "log" else f"the job has written nothing{to}"
        if said and stream != "log":
            what += ", or nothing of it was kept: Log has what the job's shell says"
        return f"There is no output: {what}." if ended else f"{_NOT_YET}: {what} so far."

    @operation(
        "GET",
        "/v1/jobs/{uid}/output/stream",
        stream=True,
        query=StreamQuery,
        headers={"Last-Event-ID": "the id of the last line that was read: go on behind it"},
        answers=(
            Answer("Server-sent events, one for each line; or the lines as they are", media=(EVENT_STREAM, *RAW)),
        ),
        errors=(400, 404, 410, 503),
    )
    async def stream(self, request: web.Request, job: int, query: StreamQuery) -> web.StreamResponse:
        """Follow a job's output, to its end.

        data is {"stream", "rank", "data"}, the id is the number of lines so far, and resumes the stream, over a
        restart of the server too. An event named log is what the job's shell says, {"level", "message", "rank"}, and
        one named redirect tells of a stream that goes to a file, {"stream", "rank", "path"}; both count as lines. With
        tail only the end of a long output is read: then an id is PLACE-NUMBER,
        the lines behind a place in the log, and resumes in the same way. It is looked for within a bound (256
        MiB of what other streams write): where that ends it, an event named notice says that there may be fewer
        lines than asked for. A line of more than 1 MiB comes in parts, each with an id of its own; only the
        last ends with a newline. An event named end comes last; the reason ended comes with the job's result
        and returncode. For Accept: text/plain or application/octet-stream the body is what the job writes, byte
        by byte: there its end may be the job's or the connection's.
        """
        _, end, ended = await self._open(job)
        output = self._followers.logs.open(job)
        cursor = await _place(request, query, output, end, rest=ended)
        wanted = request[WANTED]
        sink = _BytesStream(self._pace, RAW[wanted], query.stream) if wanted in RAW else EventStream(self._pace)
        if request.method == "HEAD":
            return web.Response(headers={"Content-Type": sink.headers["Content-Type"]})
        await sink.begin(request, cursor.position if cursor else None)
        return await sink.run(self._send(sink, job, query, output, cursor, end, ended))

    async def _send(
        self, sink: _Sink, job: int, query: StreamQuery, output: OutputLog, cursor: Cursor | None, end: int, ended: bool
    ) -> None:
        """Send what is asked for; without a cursor from the last lines on, which may take a while to find."""
        stream = _stream_of(sink, query)
        if cursor is None:
            cursor, enough = await tail(output, query.tail or 0, stream, end, rest=ended)
            await sink.start(cursor.position)
            if not enough:
                await sink.notice(_FEWER)
        if query.follow:
            await self._follow(sink, job, cursor, stream)
            return
        while await self._push(sink, cursor, stream, end, rest=ended):
            pass
        await sink.end(reason="ended" if ended else "so far", **await ending(self._store, job))

    async def _follow(self, sink: _Sink, job: int, cursor: Cursor, stream: Stream) -> None:
        """Send what there is, and what comes."""
        follower = self._followers.join(job)
        try:
            while True:
                ended, end = follower.ended, follower.count
                if await self._push(sink, cursor, stream, end, rest=ended):
                    continue
                if ended:
                    await sink.end(reason="ended", **await ending(self._store, job))
                    return
                await follower.wait(end)
        finally:
            self._followers.leave(job)

    async def _push(self, sink: _Sink, cursor: Cursor, stream: Stream, end: int, *, rest: bool) -> bool:
        """Send some lines; return whether there were any. They are made once for all readers at the same place."""
        first, runs = await cursor.read(end, rest=rest)
        if not runs:
            if isinstance(sink, _BytesStream) and not rest and (data := sink.written.begun(cursor.incomplete)):
                await sink.push(data)
            return False
        if isinstance(sink, _BytesStream):
            data = sink.written.lines(runs)
        else:
            data = await events_of(cursor, first, runs, stream)
        del runs  # a reader that takes nothing keeps what is sent to it, and no more
        await sink.push(data)
        await asyncio.sleep(0)
        return True


async def _place(request: web.Request, query: StreamQuery, output: OutputLog, end: int, *, rest: bool) -> Cursor | None:
    """Return where a stream begins; None: with the last lines."""
    for name, text in (("Last-Event-ID", request.headers.get("Last-Event-ID")), ("after", query.after)):
        if text:
            return await resume(output, text, name, end, rest=rest)
    return Cursor(output) if query.tail is None else None


def _stream_of(sink: _Sink, query: StreamQuery) -> Stream:
    """Return what is sent of an eventlog: as events also what the job's shell says, each under a name of its own."""
    return "all" if query.stream == "both" and isinstance(sink, EventStream) else query.stream
