"""``/v1/events`` and ``/v1/jobs/{uid}/events``: live streams of job events, from any position on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated

import msgspec
from aiohttp import web

from sidecar.api import filters, fresh, position
from sidecar.api.filters import JobFilter
from sidecar.domain.closed import Closed
from sidecar.domain.errors import Gone
from sidecar.http.operations import Answer, operation
from sidecar.http.sse import AFTER, EVENT_STREAM, EVENT_STREAM_TYPE, EventStream, StreamLimits
from sidecar.http.streaming import hold
from sidecar.journal.feed import Feed
from sidecar.services.lookup import JobLookup
from sidecar.store import Filter, LoggedEvents, Store, StoredEvent

_RESUME = {"Last-Event-ID": "id of the last event that was read; the stream continues after it"}
_SKIPPED = 500  # events that a filter may skip before the reader is sent a newer id to resume from


class EventsQuery(JobFilter, kw_only=True, frozen=True):
    """The jobs of the stream, and the position after which it starts; without it, now."""

    after: Annotated[str | None, AFTER] = None


class JobEventsQuery(msgspec.Struct, kw_only=True, frozen=True):
    """From where to send events; without after from the job's first event."""

    after: Annotated[str | None, AFTER] = None


class Events:
    """Stream job events.

    Args:
        store: holds the events.
        feed: the journal, which notifies of new events.
        lookup: finds a job.
        limits: timeouts of streams.
    """

    tag = "events"

    def __init__(self, store: Store, feed: Feed, lookup: JobLookup, limits: StreamLimits) -> None:
        self._store = store
        self._feed = feed
        self._lookup = lookup
        self._limits = limits

    @operation(
        "GET",
        "/v1/events",
        stream=True,
        query=EventsQuery,
        headers=_RESUME,
        answers=(Answer("Server-sent events, one for each entry of any job's eventlog", media=(EVENT_STREAM,)),),
        errors=(400, 410),
    )
    async def events(self, request: web.Request, query: EventsQuery) -> web.StreamResponse:
        """Follow the events of all jobs that match.

        data is {"id", "f58id", "timestamp", "name", "context", "state"}; the last event of a job also has result and
        returncode. state and result filter by the job's state after the event. The event's id resumes the stream, also
        after a restart of the server. An event named end is the last one; its reason says why. 410, or the reason
        removed: events after this position were removed with their jobs, see --keep-jobs.
        """
        where = filters.read(query)
        after = position.requested_event_id(request, self._store, query.after)
        if after is None:
            await fresh.settle(request, self._feed)
            after = self._store.position
        if 0 < after < self._store.gone.position:
            raise Gone(position.removed(self._store))
        stream = EventStream(self._limits, functools.partial(hold, request))
        if request.method == "HEAD":
            return web.Response(headers={"Content-Type": EVENT_STREAM_TYPE})
        generation = self._feed.tail.generation
        await stream.begin(request, position.format_event_id(self._store, after))
        return await stream.run(self._follow(stream, where, after, generation))

    async def _follow(self, stream: EventStream, where: Filter, after: int, generation: int) -> None:
        tail, sent, gone = self._feed.tail, after, self._store.gone.position
        while True:
            await tail.wait(after, generation)
            before = after
            data, after = await self._next(where, after)
            if before < self._store.gone.position != gone:
                raise Closed("removed", position.removed(self._store))
            if data:
                sent = after
            elif after - sent > _SKIPPED:
                data, sent = b"id: %b\n\n" % position.format_event_id(self._store, after).encode(), after
            if data:
                await stream.push(data)
            del data  # a reader that waits for events holds no memory

    async def _next(self, where: Filter, after: int, jobid: int | None = None) -> tuple[bytes, int]:
        """Return the next events, encoded, and the position up to which the log was read.

        While a slow reader is sent these bytes, the decoded events are not held in memory.
        """
        logged, upto = await self._feed.tail.read(after, jobid)
        return b"".join(self._matching(logged, where, after)), upto

    def _matching(self, logged: Sequence[LoggedEvents], where: Filter, after: int) -> list[bytes]:
        return [
            event
            for each in logged
            if where.matches(each.userid, each.username, each.submitter, each.queue, each.name, each.t_submit)
            for number, state, result, event in each.rendered or self._render(each)
            if number > after
            and (not where.states or state in where.states)
            and (not where.results or result in where.results)
        ]

    def _render(self, logged: LoggedEvents) -> list[tuple[int, str, str, bytes]]:
        logged.rendered = [
            (number, entry.state, entry.result, self._event(number, logged, entry))
            for number, entry in logged.entries(0)
        ]
        return logged.rendered

    def _event(self, number: int, logged: LoggedEvents, entry: StoredEvent) -> bytes:
        # The job's IDs are inserted after the opening brace of the entry's JSON.
        return b'id: %b\ndata: {"id":%d,"f58id":"%b",%b\n\n' % (
            position.format_event_id(self._store, number).encode(),
            logged.jobid,
            logged.f58id.encode(),
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
    async def job_events(self, request: web.Request, jobid: int, query: JobEventsQuery) -> web.StreamResponse:
        """Follow the events of one job to its end.

        The event named end is the last one. With the reason ended it has the job's result and returncode; any other
        reason, or a stream without it, says nothing about the job.
        """
        await self._lookup.state(jobid)
        after = position.requested_event_id(request, self._store, query.after) or 0
        stream = EventStream(self._limits, functools.partial(hold, request))
        if request.method == "HEAD":
            return web.Response(headers={"Content-Type": EVENT_STREAM_TYPE})
        await stream.begin(request, position.format_event_id(self._store, after))
        return await stream.run(self._follow_job(stream, jobid, after))

    async def _follow_job(self, stream: EventStream, jobid: int, after: int) -> None:
        tail = self._feed.tail
        generation = tail.generation
        while True:
            with self._feed.waiters.next_change(
                jobid
            ) as change:  # before the read, so that no event is missed in between
                state, last = await self._store.state_and_position(jobid)
                if not state:  # it was removed meanwhile: no change follows
                    raise Closed("removed", position.removed(self._store))
                while after < min(last, self._store.position):
                    data, after = await self._next(filters.EVERYTHING, after, jobid)
                    if data:
                        await stream.push(data)
                    del data
                # An event that was committed during the read is not published yet; its change still follows.
                if state == "INACTIVE" and last <= self._store.position:
                    fields = await self._lookup.end_fields(jobid)
                    if "result" not in fields:  # it was removed during the read, perhaps with events not read yet
                        raise Closed("removed", position.removed(self._store))
                    await stream.end(reason="ended", **fields)
                    return
                tail.check(generation)
                await change
