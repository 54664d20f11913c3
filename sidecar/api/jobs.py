"""``/v1/jobs``: list and read. Every read comes from the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar import fluid, jobspec
from sidecar.api import filters, position
from sidecar.api.filters import JobFilter
from sidecar.api.pages import Pages
from sidecar.api.pieces import stream_pieces
from sidecar.api.routing import Answer, json_response, operation
from sidecar.auth.caller import Caller
from sidecar.auth.guard import PLACE, caller_of
from sidecar.errors import InvalidRequest, NotFound, Problem, Unavailable
from sidecar.feed import Feed
from sidecar.instance import Instance
from sidecar.model import Brief, Entry, Job
from sidecar.store import Filter, Store

NDJSON = "application/x-ndjson"

_RUNNING = b'"state":"RUN","result":"","returncode"'  # in a job with all its fields
_ONE_PIECE = 200  # jobs that are sent in one piece


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


class ListQuery(JobFilter, kw_only=True):
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


class GetQuery(msgspec.Struct, kw_only=True):
    """Whether to wait for something."""

    wait: (
        Annotated[float, Meta(ge=0, le=3600, description="answer when it has come so far, or after so many seconds")]
        | None
    ) = None
    until: Annotated[
        Literal["run", "finish", "inactive"], Meta(description="how far: its start, the end of its tasks, its very end")
    ] = "inactive"


class JobspecQuery(msgspec.Struct, kw_only=True):
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
        self._pages = Pages()

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
        await self._feed.settle()
        export = _accepts(request, NDJSON)
        key = (request.rel_url.raw_query_string, export)
        revision = self._store.revision
        if page := self._pages.get(revision, key):
            return web.Response(body=page.body, headers=page.headers)
        if not export and not (query.details or query.detail):
            return self._kept(revision, key, await self._plain(request, where, query.limit))
        shape = _EXPORT if export else _LISTING if query.listing else _OBJECT
        if query.limit is not None and query.limit <= _ONE_PIECE:
            return self._kept(revision, key, await self._one_piece(request, where, query.limit, shape))
        headers = {"Content-Type": shape.media, position.HEADER: position.show(self._store, self._store.position)}
        if query.limit is not None:
            headers |= _next(request, (await self._store.page(where, query.limit)).last)
        pieces = self._store.pieces(where, query.limit, shape.what, shape.separator)
        return await stream_pieces(request, _framed(pieces, shape), headers)

    def _kept(self, revision: int, key: Hashable, response: web.Response) -> web.Response:
        """Keep a page for who asks for the same before anything has happened; the runtime of a job grows by itself."""
        body = response.body
        if isinstance(body, bytes) and _RUNNING not in body:
            self._pages.put(revision, key, body, response.headers)
        return response

    async def _plain(self, request: web.Request, where: Filter, limit: int | None) -> web.Response:
        page = await self._store.page(where, limit)
        shown = position.show(self._store, page.position)
        cursor = b',"cursor":"%b"' % _plain_f58(page.last).encode() if page.last is not None else b""
        body = b'{"jobs":[%b],"position":"%b"%b}' % (page.json, shown.encode(), cursor)
        return json_response(body, headers={position.HEADER: shown, **_next(request, page.last)})

    async def _one_piece(self, request: web.Request, where: Filter, limit: int, shape: _Shape) -> web.Response:
        page = await self._store.page(where, limit, shape.what, shape.separator)
        shown = position.show(self._store, page.position)
        headers = {"Content-Type": shape.media, position.HEADER: shown, **_next(request, page.last)}
        body = shape.opening + page.json + shape.closing if page.json or shape.opening else b""
        return web.Response(body=body, headers=headers)

    @operation("GET", "/v1/jobs/{uid}", query=GetQuery, answers=(Answer("The job", Job),), errors=(400, 404, 503))
    async def get(self, request: web.Request, job: int, query: GetQuery) -> bytes:
        """Read one job; with wait, when it has come as far as until says.

        The answer is always the job as it is then: whether it came so far in time is in its state.
        """
        await self._feed.settle(job)
        if query.wait:
            async with request[PLACE].held():
                await self._wait(job, _REACHED[query.until], query.wait)
        found = await self._store.job(job)
        if found is None:
            raise unknown(self._feed, job)
        return found

    async def _wait(self, job: int, states: tuple[str, ...], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._feed.tail.closed:
            with self._feed.change(job) as change:  # before the look, so that nothing comes between the two
                state = await self._store.state(job)
                left = deadline - time.monotonic()
                if state is None or state in states or left <= 0:
                    return
                await asyncio.wait([change], timeout=left)

    @operation(
        "GET", "/v1/jobs/{uid}/eventlog", answers=(Answer("The entries so far", Eventlog),), errors=(400, 404, 503)
    )
    async def eventlog(self, request: web.Request, job: int) -> bytes:
        """Read a job's eventlog."""
        await require(self._store, self._feed, job)
        events = await self._store.eventlog(job)
        return msgspec.json.encode({"id": job, "f58id": fluid.f58(job), "events": events})

    @operation(
        "GET",
        "/v1/jobs/{uid}/jobspec",
        query=JobspecQuery,
        answers=(Answer("The jobspec (RFC 14, RFC 25)", dict[str, Any]),),
        errors=(400, 404, 503),
    )
    async def jobspec(self, request: web.Request, job: int, query: JobspecQuery) -> bytes:
        """Read a job's jobspec, with all updates so far.

        Its environment is left out unless asked for by who has submitted it, or an admin: it may hold secrets.
        """
        if not query.environment:
            await require(self._store, self._feed, job)
        else:
            await require_own(self._store, self._feed, job, caller_of(request))
            spec = await self._instance.jobspec(job)
            for entry in await self._store.eventlog(job):
                if entry.name == "jobspec-update":
                    jobspec.update(spec, msgspec.json.decode(entry.context))
            return msgspec.json.encode(spec)
        return await self._store.jobspec(job) or b"{}"


async def require(store: Store, feed: Feed, job: int) -> str:
    """Return a job's state.

    Raises:
        NotFound: there is no such job.
        Unavailable: it may be in the part of the history that is not read yet.
    """
    await feed.settle(job)
    state = await store.state(job)
    if state is None:
        raise unknown(feed, job)
    return state


async def require_own(store: Store, feed: Feed, job: int, caller: Caller) -> str:
    """Return the state of a job that is the caller's to change.

    Raises:
        Forbidden: it is somebody else's.
        NotFound: there is no such job.
        Unavailable: it may be in the part of the history that is not read yet.
    """
    state = await require(store, feed, job)
    if "admin" not in caller.scopes:
        caller.require_own(await store.submitter(job), f"Job {fluid.f58(job)}")
    return state


def unknown(feed: Feed, job: int) -> Problem:
    """Return the error for a job that the store does not know."""
    if not feed.caught_up:  # who comes back to a server that has just begun must not be told that the job is gone
        return Unavailable(f"The history is being read: whether there is a job {fluid.f58(job)} is not known yet.")
    return NotFound(f"There is no job {fluid.f58(job)} ({job}).")


def _filter(query: ListQuery) -> Filter:
    where = filters.read(query)
    if query.cursor is None:
        return where
    try:
        before = fluid.parse(query.cursor)
    except ValueError:
        raise InvalidRequest(f"cursor: {query.cursor!r} is none; take it from a page's Link header.") from None
    return msgspec.structs.replace(where, before_id=min(before, 2**63 - 1))


def _accepts(request: web.Request, media: str) -> bool:
    return request.headers.get("Accept", "").split(";")[0].strip() == media


def _next(request: web.Request, last: int | None) -> dict[str, str]:
    """Return the Link header that leads to the next page, when there is one."""
    if last is None:
        return {}
    following = urlencode({**request.query, "cursor": _plain_f58(last)})
    return {"Link": f'<{request.path}?{following}>; rel="next"'}


def _plain_f58(job: int) -> str:
    """Spell an id in ASCII, for addresses and headers."""
    return fluid.f58(job).replace("ƒ", "f")


async def _framed(pieces: AsyncIterator[bytes], shape: _Shape) -> AsyncIterator[bytes]:
    """Put a list together from pieces."""
    before = shape.opening
    async for piece in pieces:
        yield before + piece
        before = shape.separator.encode()
    if before == shape.separator.encode():
        yield shape.closing
    elif shape.opening:
        yield shape.opening + shape.closing
