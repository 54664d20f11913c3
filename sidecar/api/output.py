"""``/v1/jobs/{uid}/output``: what a job has written so far, at once, or as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.events import ending
from sidecar.api.jobs import require
from sidecar.api.routing import Answer, operation
from sidecar.api.stream import AFTER, EVENT_STREAM, EventStream, Pace, TextStream
from sidecar.errors import InvalidRequest
from sidecar.feed import Feed
from sidecar.follow import Follower, Followers
from sidecar.instance import Instance
from sidecar.output import Line, Output, Stream
from sidecar.store import Store

_RAW = ("text/plain", "application/octet-stream")
_MANY = 1000


class OutputQuery(msgspec.Struct, kw_only=True):
    """Which output."""

    stream: Annotated[Literal["stdout", "stderr", "both"], Meta(description="which stream")] = "both"


class StreamQuery(OutputQuery, kw_only=True):
    """Which output, and how long."""

    follow: Annotated[bool, Meta(description="go on until the job has ended; false: what there is so far")] = True
    tail: Annotated[int, Meta(ge=0, description="begin with the last so many lines; all when absent")] | None = None
    after: Annotated[str | None, AFTER] = None


class OutputBody(msgspec.Struct, omit_defaults=False):
    """Lines with their newline; bytes that are not UTF-8 are shown as U+FFFD (ask for text/plain to get them)."""

    Output: list[str]


class NoOutput(msgspec.Struct):
    """There is no output, and why."""

    Output: list[str]
    Message: str


class JobOutput:
    """The output of jobs."""

    tag = "jobs"

    def __init__(self, store: Store, feed: Feed, instance: Instance, followers: Followers, pace: Pace) -> None:
        self._store = store
        self._feed = feed
        self._instance = instance
        self._followers = followers
        self._pace = pace

    @operation(
        "GET",
        "/v1/jobs/{uid}/output",
        query=OutputQuery,
        answers=(
            Answer(
                "The lines so far; as they are for Accept: text/plain",
                OutputBody | NoOutput,
                ("application/json", *_RAW),
            ),
        ),
        errors=(400, 404, 503),
    )
    async def output(self, request: web.Request, job: int, query: OutputQuery) -> web.Response | NoOutput | OutputBody:
        """Read a job's output so far.

        Answers at once, whether the job runs or not. For Accept: text/plain or application/octet-stream the body is
        what the job wrote, byte by byte.
        """
        await require(self._store, self._feed, job)
        output = await self._instance.output(job)
        lines = output.data(query.stream)
        if (wanted := _wanted(request)) in _RAW:
            return web.Response(body=b"".join(lines), content_type=wanted)
        if not lines:
            return NoOutput([], _why_empty(output))
        if len(lines) > _MANY:  # a long output is decoded beside the loop
            body = await asyncio.to_thread(lambda: msgspec.json.encode(_body(lines)))
            return web.Response(body=body, content_type="application/json")
        return _body(lines)

    async def written(self, job: int) -> bytes:
        """Return what a job has written so far, byte by byte.

        Raises:
            NotFound: there is no such job.
        """
        await require(self._store, self._feed, job)
        return b"".join((await self._instance.output(job)).data("both"))

    @operation(
        "GET",
        "/v1/jobs/{uid}/output/stream",
        stream=True,
        query=StreamQuery,
        headers={"Last-Event-ID": "the id of the last line that was read: go on behind it"},
        answers=(
            Answer("Server-sent events, one for each line; or the lines as they are", media=(EVENT_STREAM, *_RAW)),
        ),
        errors=(400, 404, 503),
    )
    async def stream(self, request: web.Request, job: int, query: StreamQuery) -> web.StreamResponse:
        """Follow a job's output, to its end.

        data is {"stream", "rank", "data"}, the id is the number of lines so far, and resumes the stream, over a
        restart of the server too. An event named end comes last; the reason ended comes with the job's result and
        returncode. For Accept: text/plain or application/octet-stream the body is what the job writes, byte by byte:
        there its end may be the job's or the connection's.
        """
        state = await require(self._store, self._feed, job)
        known: list[Line] = []
        if not query.follow or _asks_for_a_part(request, query):  # who follows all of it is given it by the follower
            output = await self._instance.output(job)
            known = [*output.lines, *output.rest] if state == "INACTIVE" else output.lines
        begin = _begin(request, query, known)
        wanted = _wanted(request)
        sink = TextStream(self._pace, wanted) if wanted in _RAW else EventStream(self._pace)
        if request.method == "HEAD":
            return web.Response(content_type=sink.content_type)
        await sink.begin(request, str(begin))
        if query.follow:
            del known  # a reader may stay for days
            return await sink.run(self._follow(sink, job, begin, query.stream))
        reason = "ended" if state == "INACTIVE" else "so far"
        return await sink.run(self._send(sink, job, known[begin:], begin, query.stream, reason))

    async def _send(
        self, sink: EventStream | TextStream, job: int, lines: Sequence[Line], after: int, stream: Stream, reason: str
    ) -> None:
        for first in range(0, len(lines), _MANY):
            some = lines[first : first + _MANY]
            await sink.push(_render(some, after + first, stream, text=isinstance(sink, TextStream)))
        await sink.end(reason=reason, **await ending(self._store, job))

    async def _follow(self, sink: EventStream | TextStream, job: int, number: int, stream: Stream) -> None:
        follower = self._followers.join(job)
        text = isinstance(sink, TextStream)
        try:
            while True:
                await follower.wait(number)
                count = min(follower.count, number + _MANY)
                if count > number:
                    await sink.push(await self._rendered(follower, number, count, stream, text))
                    number = count
                elif follower.ended:
                    await sink.end(reason="ended", **await ending(self._store, job))
                    return
        finally:
            self._followers.leave(job)

    async def _rendered(self, follower: Follower, after: int, count: int, stream: Stream, text: bool) -> bytes:
        """Make the bytes of some lines, once for all readers who are equally far."""
        key = (after, count, stream, text)
        data = follower.rendered.get(key)
        if data is None:
            data = _render(await follower.read(after, count), after, stream, text=text)
            follower.remember(key, data)
        return data


def _asks_for_a_part(request: web.Request, query: StreamQuery) -> bool:
    return "Last-Event-ID" in request.headers or query.after is not None or query.tail is not None


def _begin(request: web.Request, query: StreamQuery, known: Sequence[Line]) -> int:
    """Return how many lines to leave out."""
    for name, text in (("Last-Event-ID", request.headers.get("Last-Event-ID")), ("after", query.after)):
        if text:
            if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text) <= len(known)):
                raise InvalidRequest(
                    f"{name}: {text[:80]!r} is no line of this output; use 0 (from the first line) to {len(known)}."
                )
            return int(text)
    if query.tail is None:
        return 0
    matching = [number for number, line in enumerate(known) if query.stream in ("both", line.stream)]
    return matching[-query.tail] if 0 < query.tail <= len(matching) else 0 if query.tail else len(known)


def _render(lines: Sequence[Line], after: int, stream: Stream, *, text: bool) -> bytes:
    if text:
        return b"".join(line.data for line in lines if stream in ("both", line.stream))
    return b"".join(
        b"id: %d\ndata: %b\n\n" % (number, _line(line))
        for number, line in enumerate(lines, after + 1)
        if stream in ("both", line.stream)
    )


def _line(line: Line) -> bytes:
    shown: dict[str, Any] = {"stream": line.stream, "rank": line.rank, "data": line.data.decode(errors="replace")}
    return msgspec.json.encode(shown)


def _wanted(request: web.Request) -> str:
    return request.headers.get("Accept", "").split(";")[0].strip()


def _body(lines: list[bytes]) -> OutputBody:
    return OutputBody([line.decode(errors="replace") for line in lines])


def _why_empty(output: Output) -> str:
    if output.redirected:
        places = ", ".join(f"{stream} to {path}" for stream, path in output.redirected.items())
        return f"The output does not exist here: the job writes {places}."
    return "The output does not exist yet, or the job has written none."
