"""``/v1/jobs``: list and read. Every read comes from the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api import filters, fresh, position
from sidecar.api.filters import JobFilter
from sidecar.api.lookup import require, require_own, unknown
from sidecar.auth.guard import ADMISSION, caller_of
from sidecar.domain import fluid, jobspec, untrusted
from sidecar.domain.durations import AS_TEXT
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import Brief, Entry, Job
from sidecar.http.html import relative_root
from sidecar.http.negotiation import NDJSON, WANTED
from sidecar.http.operations import Answer, operation
from sidecar.http.page_cache import ResponseCache
from sidecar.http.streaming import framed, stream_chunks, whole_or_chunks
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.store import Filter, LoggedEvents, Store

_RUNNING = b'"state":"RUN","result":"","returncode"'  # in a job with all its fields
_ONE_PIECE = 200  # jobs that are sent in one piece
_UNKNOWN = object()


class _Shape(NamedTuple):
    """How a list of whole jobs is written: what of each job, and what is around them."""

    what: str
    media: str
    separator: str
    opening: bytes
    closing: bytes


_LISTING = _Shape("full", "application/json", ",", b"[", b"]\n")
_EXPORT = _Shape("full", NDJSON, "\n", b"", b"\n")
_OBJECT = _Shape("keyed", "application/json", ",", b"{", b"}\n")

#: In which states a job is when it has come so far.
_REACHED = {
    "run": ("RUN", "CLEANUP", "INACTIVE"),
    "finish": ("CLEANUP", "INACTIVE"),
    "inactive": ("INACTIVE",),
}


class ListQuery(JobFilter, kw_only=True, frozen=True):
    """Which jobs to list, and how."""

    details: Annotated[bool | None, Meta(description="all fields of each job, as an object by id")] = None
    detail: Annotated[bool | None, Meta(description="the same as details")] = None
    listing: Annotated[bool | None, Meta(description="with details: an array instead of an object")] = None
    limit: Annotated[int, Meta(ge=0, description="at most so many; all when absent")] | None = None
    cursor: Annotated[str | None, Meta(description="go on where a page ended; from its Link header")] = None


class JobList(msgspec.Struct, omit_defaults=True):
    """A plain list; ``cursor`` when a page ends before the list does."""

    jobs: list[Brief]
    position: Annotated[str, Meta(description="/v1/events?after= goes on from here without a gap")]
    cursor: str | None = None


class GetQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Whether to wait for something."""

    wait: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=3600,
                description=f"answer when it has come so far, or after so many seconds, {AS_TEXT}",
                extra={"duration": True},
            ),
        ]
        | None
    ) = None
    until: Annotated[
        Literal["run", "finish", "inactive"], Meta(description="how far: its start, the end of its tasks, its very end")
    ] = "inactive"


class JobspecQuery(msgspec.Struct, kw_only=True, frozen=True):
    """How much of the jobspec."""

    environment: Annotated[bool | None, Meta(description="with the job's environment, which is hidden otherwise")] = (
        None
    )


class Eventlog(msgspec.Struct):
    """A job's eventlog (RFC 18, RFC 21), and what each entry made of the job."""

    id: int
    f58id: str
    events: list[Entry]


class Jobs:
    """The jobs of the instance."""

    tag = "jobs"

    def __init__(self, store: Store, feed: Feed, instance: Instance) -> None:
        self._store = store
        self._feed = feed
        self._instance = instance
        self._pages = ResponseCache()

    @operation(
        "GET",
        "/v1/jobs",
        query=ListQuery,
        answers=(Answer("The jobs, newest first", JobList | dict[str, Job] | list[Job], ("application/json", NDJSON)),),
        errors=(400,),
    )
    async def list(self, request: web.Request, query: ListQuery) -> Any:
        """List jobs, newest first.

        Plain: {"jobs": [{"id": ...}]}. With details=true an object of jobs by id; with listing=true too, an array.
        Where limit cuts the list, a Link header of rel="next" leads to the next page. For Accept:
        application/x-ndjson all fields of every match, a job a line. The header Flux-Events-Position, and position
        in the plain list, is where /v1/events?after= goes on.
        """
        where = _filter(query)
        await fresh.settle(request, self._feed)
        export = request[WANTED] == NDJSON
        key = (request.rel_url.raw_query_string, export)
        revision = self._store.revision
        if page := self._pages.get(revision, key):
            return web.Response(body=page.body, headers=page.headers)
        if not export and not (query.details or query.detail):
            return self._kept(revision, key, await self._plain(request, where, query.limit))
        shape = _EXPORT if export else _LISTING if query.listing else _OBJECT
        if (
            query.limit is not None
            and query.limit <= _ONE_PIECE
            and (whole := await self._one_piece(request, where, query.limit, shape))
        ):
            return self._kept(revision, key, whole)
        headers = {
            "Content-Type": shape.media,
            position.HEADER: position.format_event_id(self._store, self._store.position),
        }
        if query.limit is not None:
            headers |= _next(request, await self._store.lists.last_of_page(where, query.limit))
        pieces = self._store.lists.chunks(where, query.limit, shape.what, shape.separator)
        framed_ = framed(pieces, shape.separator.encode(), shape.opening, shape.closing)
        return await stream_chunks(request, framed_, headers)

    def _kept(self, revision: int, key: Hashable, response: web.StreamResponse) -> web.StreamResponse:
        """Keep a page for who asks for the same before anything has happened; the runtime of a job grows by itself."""
        body = response.body if isinstance(response, web.Response) else None
        if isinstance(body, bytes) and _RUNNING not in body:
            self._pages.put(revision, key, body, response.headers)
        return response

    async def _plain(self, request: web.Request, where: Filter, limit: int | None) -> web.StreamResponse:
        page = await self._store.lists.page(where, limit)
        shown = position.format_event_id(self._store, page.position)
        cut = page.last is not None and page.length != limit  # the page is large, and not all that is asked for
        last = page.last
        if cut:
            last = None if limit is None else await self._store.lists.last_of_page(where, limit)
        cursor = b',"cursor":"%b"' % fluid.f58_ascii(last).encode() if last is not None else b""
        closing = b'],"position":"%b"%b}\n' % (shown.encode(), cursor)
        headers = {"Content-Type": "application/json", position.HEADER: shown, **_next(request, last)}
        if not cut:
            return web.Response(body=b'{"jobs":[' + page.json + closing, headers=headers)
        del page
        pieces = self._store.lists.chunks(where, limit, "brief")
        return await stream_chunks(request, framed(pieces, b",", b'{"jobs":[', closing), headers)

    async def _one_piece(self, request: web.Request, where: Filter, limit: int, shape: _Shape) -> web.Response | None:
        """Return a short list as one piece; None where its jobs are too large for that."""
        page = await self._store.lists.page(where, limit, shape.what, shape.separator)
        if page.last is not None and page.length < limit:
            return None
        shown = position.format_event_id(self._store, page.position)
        headers = {"Content-Type": shape.media, position.HEADER: shown, **_next(request, page.last)}
        body = shape.opening + page.json + shape.closing if page.json or shape.opening else b""
        return web.Response(body=body, headers=headers)

    @operation("GET", "/v1/jobs/{uid}", query=GetQuery, answers=(Answer("The job", Job),), errors=(400, 404, 503))
    async def get(self, request: web.Request, job: int, query: GetQuery) -> bytes:
        """Read one job; with wait, when it has come as far as until says.

        The answer is always the job as it is then: whether it came so far in time is in its state.
        """
        await self._feed.barrier.wait_job_visible(job)
        if query.wait:
            async with request[ADMISSION].while_authorized():
                await self._wait(job, _REACHED[query.until], query.wait)
        found = await self._store.job(job)
        if found is None:
            raise unknown(self._feed, job)
        return found

    async def _wait(self, job: int, states: tuple[str, ...], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._feed.tail.closed:
            with self._feed.waiters.next_change(job) as change:  # before the state is read
                state = await self._store.state(job)
                left = deadline - time.monotonic()
                if state is None or state in states or left <= 0:
                    return
                await asyncio.wait([change], timeout=left)

    @operation(
        "GET", "/v1/jobs/{uid}/eventlog", answers=(Answer("The entries so far", Eventlog),), errors=(400, 404, 503)
    )
    async def eventlog(self, request: web.Request, job: int) -> web.StreamResponse:
        """Read a job's eventlog.

        Of a context over 16 KiB, longer texts end with …, and larger members are left out for a …. A long eventlog is
        sent as it is read: an error in the middle breaks the connection off.
        """
        await require(self._store, self._feed, job)
        opening = b'{"id":%d,"f58id":"%b","events":[' % (job, fluid.f58(job).encode())
        rows = (each async for told in self._store.eventlog(job) if (each := _entries(told)))
        return await whole_or_chunks(
            request, framed(rows, b",", opening, b"]}\n"), {"Content-Type": "application/json"}
        )

    @operation(
        "GET",
        "/v1/jobs/{uid}/jobspec",
        query=JobspecQuery,
        answers=(Answer("The jobspec (RFC 14, RFC 25)", dict[str, Any]),),
        errors=(400, 404, 410, 503),
    )
    async def jobspec(self, request: web.Request, job: int, query: JobspecQuery) -> bytes:
        """Read a job's jobspec, with all updates so far.

        Its environment is left out unless the submitter or an admin asks for it: it may hold secrets. 410: Flux has
        purged the job, and the environment with it.
        """
        if not query.environment:
            await require(self._store, self._feed, job)
        else:
            await require_own(self._store, self._feed, job, caller_of(request))
            spec = await self._instance.jobspec(job)
            known = untrusted.decoded(await self._store.jobspec(job) or b"{}")
            async for told in self._store.eventlog(job):
                for path in _updates(told):  # of an update that is large the eventlog does not hold all
                    if (value := jobspec.get(known, path, _UNKNOWN)) is not _UNKNOWN:
                        jobspec.update(spec, {path: value})
            return untrusted.encode(spec)
        return await self._store.jobspec(job) or b"{}"


def _entries(told: LoggedEvents) -> bytes:
    """Return entries as JSON with commas between them, and all members of each."""
    return msgspec.json.encode([entry for _, entry in told.entries(0)])[1:-1]


def _updates(told: LoggedEvents) -> list[str]:
    """Return which places in the jobspec were updated."""
    updates = (entry for _, entry in told.entries(0) if entry.name == "jobspec-update")
    return [path for entry in updates for path in untrusted.decoded(entry.context)]


def _filter(query: ListQuery) -> Filter:
    where = filters.read(query)
    if query.cursor is None:
        return where
    try:
        before = fluid.parse(query.cursor)
    except ValueError:
        raise InvalidRequest(f"unknown cursor {query.cursor!r}; take it from a page's Link header.") from None
    return msgspec.structs.replace(where, before_id=min(before, 2**63 - 1))


def _next(request: web.Request, last: int | None) -> dict[str, str]:
    """Return the Link header that leads to the next page, when there is one."""
    if last is None:
        return {}
    following = urlencode({**request.query, "cursor": fluid.f58_ascii(last)})
    return {"Link": f'<{relative_root(request.path)}{request.path[1:]}?{following}>; rel="next"'}
