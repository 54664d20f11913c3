"""``/v1/events`` and ``/v1/jobs/{uid}/events``: what happens to jobs, as it happens, from any position on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated

import msgspec
from aiohttp import web

from sidecar.api import filters, fresh, position
from sidecar.api.filters import JobFilter
from sidecar.api.lookup import ending, require
from sidecar.http.operations import Answer, operation
from sidecar.http.sse import AFTER, EVENT_STREAM, EVENT_STREAM_TYPE, EventStream, StreamLimits
from sidecar.http.streaming import hold
from sidecar.journal.feed import Feed
from sidecar.store import Filter, LoggedEvents, Store, StoredEvent

_RESUME = {"Last-Event-ID": "the id of the last event that was read: go on behind it"}
_SKIPPED = 500  # events that a filter may leave out before the reader is given a newer id to come back with


class EventsQuery(JobFilter, kw_only=True, frozen=True):
    """Which jobs' events, and from where on; without after from now on."""

    after: Annotated[str | None, AFTER] = None


class JobEventsQuery(msgspec.Struct, kw_only=True, frozen=True):
    """From where on; without after from the job's first event on."""

    after: Annotated[str | None, AFTER] = None


class Events:
    """Streams of events."""

    tag = "events"

    def __init__(self, store: Store, feed: Feed, pace: StreamLimits) -> None:
        self._store = store
        self._feed = feed
        self._pace = pace

    @operation(
        "GET",
        "/v1/events",
        stream=True,
        query=EventsQuery,
        headers=_RESUME,
        answers=(Answer("Server-sent events, one for each entry of any job's eventlog", media=(EVENT_STREAM,)),),
        errors=(400,),
    )
    async def events(self, request: web.Request, query: EventsQuery) -> web.StreamResponse:
        """Follow the events of all jobs that match.

        data is {"id", "f58id", "timestamp", "name", "context", "state"}, of the last one of a job also result and
        returncode; state and result filter by what the event made of the job. The event's id resumes the stream,
        over a restart of the server too. An event named end is the last one; its reason says why.
        """
        where = filters.read(query)
        after = position.requested_event_id(request, self._store, query.after)
        if after is None:
            await fresh.settle(request, self._feed)
            after = self._store.position
        stream = EventStream(self._pace, functools.partial(hold, request))
        if request.method == "HEAD":
            return web.Response(headers={"Content-Type": EVENT_STREAM_TYPE})
        generation = self._feed.tail.generation
        await stream.begin(request, position.format_event_id(self._store, after))
        return await stream.run(self._follow(stream, where, after, generation))

    async def _follow(self, stream: EventStream, where: Filter, after: int, generation: int) -> None:
        tail, shown = self._feed.tail, after
        while True:
            await tail.wait(after, generation)
            data, after = await self._next(where, after)
            if data:
                shown = after
            elif after - shown > _SKIPPED:
                data, shown = b"id: %b\n\n" % position.format_event_id(self._store, after).encode(), after
            if data:
                await stream.push(data)
            del data  # a reader that waits holds nothing

    async def _next(self, where: Filter, after: int, job: int | None = None) -> tuple[bytes, int]:
        """Return the events that come next, as they are sent, and up to where was looked.

        A reader that takes nothing keeps these bytes, and not also what they were made from.
        """
        told, upto = await self._feed.tail.read(after, job)
        return b"".join(self._render(told, where, after)), upto

    def _render(self, told: Sequence[LoggedEvents], where: Filter, after: int) -> list[bytes]:
        return [
            event
            for each in told
            if where.matches(each.userid, each.username, each.submitter, each.queue, each.name, each.t_submit)
            for number, state, result, event in each.rendered or self._events(each)
            if number > after
            and (not where.states or state in where.states)
            and (not where.results or result in where.results)
        ]

    def _events(self, told: LoggedEvents) -> list[tuple[int, str, str, bytes]]:
        told.rendered = [
            (number, entry.state, entry.result, self._event(number, told, entry)) for number, entry in told.entries(0)
        ]
        return told.rendered

    def _event(self, number: int, told: LoggedEvents, entry: StoredEvent) -> bytes:
        # The entry's JSON begins with a brace; what job it is of comes first.
        return b'id: %b\ndata: {"id":%d,"f58id":"%b",%b\n\n' % (
            position.format_event_id(self._store, number).encode(),
            told.jobid,
            told.f58id.encode(),
            msgspec.json.encode(entry)[1:],
        )

    @operation(
        "GET",
        "/v1/jobs/{uid}/events",
        stream=True,
        query=JobEventsQuery,
        headers=_RESUME,
        answers=(Answer("Server-sent events, one for each entry of the job's eventlog", media=(EVENT_STREAM,)),),
        errors=(400, 404, 503),
    )
    async def job_events(self, request: web.Request, job: int, query: JobEventsQuery) -> web.StreamResponse:
        """Follow the events of one job, to its end.

        The event named end that comes last has the reason ended, and the job's result and returncode. Any other
        reason, or none, says nothing about the job.
        """
        await require(self._store, self._feed, job)
        after = position.requested_event_id(request, self._store, query.after) or 0
        stream = EventStream(self._pace, functools.partial(hold, request))
        if request.method == "HEAD":
            return web.Response(headers={"Content-Type": EVENT_STREAM_TYPE})
        await stream.begin(request, position.format_event_id(self._store, after))
        return await stream.run(self._follow_job(stream, job, after))

    async def _follow_job(self, stream: EventStream, job: int, after: int) -> None:
        tail = self._feed.tail
        generation = tail.generation
        while True:
            with self._feed.waiters.next_change(job) as change:  # before the state is read
                state, last = await self._store.state_and_position(job)
                while after < min(last, self._store.position):
                    data, after = await self._next(filters.EVERYTHING, after, job)
                    if data:
                        await stream.push(data)
                    del data
                # What was committed this very moment is in the file and not told yet: the change is still to come.
                if state == "INACTIVE" and last <= self._store.position:
                    await stream.end(reason="ended", **await ending(self._store, job))
                    return
                tail.check(generation)
                await change
