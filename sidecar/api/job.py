"""``/v1/jobs/{uid}``: read one job, its eventlog and its jobspec."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from sidecar.api.fields import F58, JobID
from sidecar.auth.guard import ADMISSION, caller_of
from sidecar.domain import fluid, jobspec, untrusted
from sidecar.domain.durations import AS_TEXT
from sidecar.domain.model import Entry, Job
from sidecar.http import conditional
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import json_response
from sidecar.http.streaming import framed, whole_or_chunks
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.services.lookup import JobLookup
from sidecar.store import LoggedEvents, Store

_UNKNOWN = object()
_RUNNING = b'"state":"RUN"'

#: The states of a job that has reached each value of ``until``.
_REACHED = {
    "run": ("RUN", "CLEANUP", "INACTIVE"),
    "finish": ("CLEANUP", "INACTIVE"),
    "inactive": ("INACTIVE",),
}


class GetQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Whether to wait for the job."""

    wait: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=3600,
                description=f"respond once the job has reached until, or after this many seconds, {AS_TEXT}",
                extra={"duration": True},
            ),
        ]
        | None
    ) = None
    until: Annotated[
        Literal["run", "finish", "inactive"],
        Meta(description="what to wait for: the job's start, the end of its tasks, or its end"),
    ] = "inactive"


class JobspecQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Which parts of the jobspec to return."""

    environment: Annotated[
        bool | None, Meta(description="include the job's environment; only for the submitter and admins")
    ] = None


class Eventlog(msgspec.Struct):
    """A job's eventlog (RFC 18, RFC 21), and the job's state after each entry."""

    id: JobID
    f58id: F58
    events: Annotated[list[Entry], Meta(description="entries in their order")]


class JobResource:
    """Read one job.

    Args:
        lookup: finds the job.
        store: holds its eventlog and jobspec.
        feed: the journal, which notifies of changes.
        instance: has the jobspec with the environment.
    """

    tag = "jobs"

    def __init__(self, lookup: JobLookup, store: Store, feed: Feed, instance: Instance) -> None:
        self._lookup = lookup
        self._store = store
        self._feed = feed
        self._instance = instance

    @operation(
        "GET",
        "/v1/jobs/{uid}",
        query=GetQuery,
        headers=conditional.REQUEST_HEADERS,
        answers=(Answer("The job", Job), conditional.NOT_MODIFIED),
        errors=(400, 404, 503),
    )
    async def get(self, request: web.Request, jobid: int, query: GetQuery) -> web.Response:
        """Read one job; with wait, once it has reached until.

        The response is the job as it is then: its state says whether it has reached until in time. It has an ETag,
        unless the job is running: then runtime grows all the time.
        """
        if query.wait:
            await self._lookup.state(jobid)
            async with request[ADMISSION].while_authorized():
                await self._wait(jobid, _REACHED[query.until], query.wait)
        encoded = await self._lookup.encoded(jobid)
        if _RUNNING in encoded:
            return json_response(encoded)
        tag = conditional.weak_tag(hash(encoded))  # kept by the object, which the store caches
        return conditional.not_modified(request, tag) or json_response(encoded, headers={hdrs.ETAG: tag})

    async def _wait(self, jobid: int, states: tuple[str, ...], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._feed.tail.closed:
            with self._feed.waiters.next_change(
                jobid
            ) as change:  # before the read, so that no event is missed in between
                state = await self._store.state(jobid)
                left = deadline - time.monotonic()
                if state is None or state in states or left <= 0:
                    return
                await asyncio.wait([change], timeout=left)

    @operation(
        "GET",
        "/v1/jobs/{uid}/eventlog",
        compress=True,
        answers=(Answer("The entries so far", Eventlog),),
        errors=(400, 404, 503),
    )
    async def eventlog(self, request: web.Request, jobid: int) -> web.StreamResponse:
        """Read a job's eventlog.

        Of a context over 16 KiB, longer texts end with …, and larger members are replaced by …. A long eventlog is sent
        while it is read: an error in the middle breaks the connection.
        """
        await self._lookup.state(jobid)
        opening = b'{"id":%d,"f58id":"%b","events":[' % (jobid, fluid.f58(jobid).encode())
        chunks = (entries async for logged in self._store.eventlog(jobid) if (entries := _encoded(logged)))
        return await whole_or_chunks(
            request, framed(chunks, b",", opening, b"]}\n"), {"Content-Type": "application/json"}
        )

    @operation(
        "GET",
        "/v1/jobs/{uid}/jobspec",
        query=JobspecQuery,
        answers=(Answer("The jobspec (RFC 14, RFC 25)", dict[str, Any]),),
        errors=(400, 404, 410, 503),
    )
    async def jobspec(self, request: web.Request, jobid: int, query: JobspecQuery) -> bytes:
        """Read a job's jobspec, with all updates so far.

        Its environment may hold secrets: it is included only if the submitter or an admin asks for it. 410: Flux has
        purged the job, and the environment with it.
        """
        if query.environment:
            await self._lookup.own_state(jobid, caller_of(request))
            return untrusted.encode(await self._with_environment(jobid))
        await self._lookup.state(jobid)
        return await self._store.jobspec(jobid) or b"{}"

    async def _with_environment(self, jobid: int) -> dict[str, Any]:
        spec = await self._instance.jobspec(jobid)
        updated = untrusted.decoded(await self._store.jobspec(jobid) or b"{}")
        async for logged in self._store.eventlog(jobid):
            for path in _updates(logged):  # the values come from the store: the eventlog cuts large ones
                if (value := jobspec.get(updated, path, _UNKNOWN)) is not _UNKNOWN:
                    jobspec.update(spec, {path: value})
        return spec


def _encoded(logged: LoggedEvents) -> bytes:
    """Return entries as JSON with all members, separated by commas."""
    return msgspec.json.encode([entry for _, entry in logged.entries(0)])[1:-1]


def _updates(logged: LoggedEvents) -> list[str]:
    """Return the paths of the jobspec that entries have updated."""
    updates = (entry for _, entry in logged.entries(0) if entry.name == "jobspec-update")
    return [path for entry in updates for path in untrusted.decoded(entry.context)]
