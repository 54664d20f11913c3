"""``/v1/jobs``: list, read, cancel. Every read comes from the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar import fluid
from sidecar.api.routing import Answer, json_response, operation
from sidecar.errors import Conflict, InvalidRequest, NotFound
from sidecar.instance import Instance
from sidecar.model import RESULTS, STATES, Job
from sidecar.store import Filter, Short, Store

_MANY = 1000

#: flux-jobs(1)'s names for several states.
_STATE_GROUPS = {
    "PENDING": ("DEPEND", "PRIORITY", "SCHED"),
    "RUNNING": ("RUN", "CLEANUP"),
    "ACTIVE": ("NEW", "DEPEND", "PRIORITY", "SCHED", "RUN", "CLEANUP"),
}


class ListQuery(msgspec.Struct, kw_only=True):
    """Which jobs to list, and how."""

    details: Annotated[bool | None, Meta(description="all fields of each job, as an object by id")] = None
    detail: Annotated[bool | None, Meta(description="the same as details")] = None
    listing: Annotated[bool | None, Meta(description="with details: an array instead of an object")] = None
    limit: Annotated[int, Meta(ge=0, description="at most so many; all when absent")] | None = None
    cursor: Annotated[str | None, Meta(description="go on where a page ended; from its Link header")] = None
    state: Annotated[
        str | None,
        Meta(description="states, separated by commas; pending, running, active stand for several"),
    ] = None
    result: Annotated[str | None, Meta(description="results, separated by commas")] = None
    user: Annotated[str | None, Meta(description="user name or uid")] = None
    queue: str | None = None
    name: str | None = None
    since: Annotated[float | None, Meta(description="submitted at or after, Unix seconds")] = None
    until: Annotated[float | None, Meta(description="submitted before, Unix seconds")] = None


class Brief(msgspec.Struct):
    """A job in a plain list."""

    id: int
    f58id: str
    state: str
    result: str
    name: str


class JobList(msgspec.Struct, omit_defaults=True):
    """A plain list; ``cursor`` when a page ends before the list does."""

    jobs: list[Brief]
    cursor: str | None = None


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said with a cancel."""

    reason: Annotated[str, Meta(max_length=1000, description="kept with the job as its exception's note")] = ""


class Cancelled(msgspec.Struct):
    """The answer to a cancel."""

    Message: str
    id: int
    f58id: str


class Jobs:
    """The jobs of the instance."""

    tag = "jobs"

    def __init__(self, store: Store, instance: Instance) -> None:
        self._store = store
        self._instance = instance

    @operation(
        "GET",
        "/v1/jobs",
        query=ListQuery,
        answers=(Answer("The jobs, newest first", JobList | dict[str, Job] | list[Job]),),
        errors=(400,),
    )
    async def list(self, request: web.Request, query: ListQuery) -> Any:
        """List jobs, newest first.

        Plain: {"jobs": [{"id": ...}]}. With details=true an object of jobs by id; with listing=true too, an array.
        Where limit cuts the list, a Link header of rel="next" leads to the next page.
        """
        where = _filter(query)
        headers, cursor = await self._next_page(request, where, query.limit)
        if not (query.details or query.detail):
            rows = await self._store.list_short(where, query.limit)
            # A long list is encoded beside the loop, which has other callers to serve.
            encode = asyncio.to_thread if len(rows) > _MANY else _inline
            return json_response(await encode(_brief, rows, cursor), headers=headers)
        chunks = self._store.list_full(where, query.limit)
        if query.listing:
            return await stream_json(request, _values(chunks), b"[", b"]", headers)
        return await stream_json(request, _items(chunks), b"{", b"}", headers)

    async def _next_page(
        self, request: web.Request, where: Filter, limit: int | None
    ) -> tuple[dict[str, str], str | None]:
        """Return the Link header and cursor that lead on, when there is more than ``limit``."""
        if not limit:
            return {}, None
        rows = await self._store.list_short(where, limit + 1)
        if len(rows) <= limit:
            return {}, None
        cursor = _plain_f58(rows[limit - 1][0])
        following = urlencode({**request.query, "cursor": cursor})
        return {"Link": f'<{request.path}?{following}>; rel="next"'}, cursor

    @operation("GET", "/v1/jobs/{uid}", answers=(Answer("The job", Job),), errors=(400, 404))
    async def get(self, request: web.Request, job: int) -> bytes:
        """Read one job."""
        found = await self._store.job(job)
        if found is None:
            raise unknown(job)
        return found

    @operation(
        "POST",
        "/v1/jobs/{uid}/cancel",
        body=CancelBody,
        answers=(Answer("The instance was asked to end the job", Cancelled),),
        errors=(400, 404, 409, 413, 415, 503),
    )
    async def cancel(self, request: web.Request, job: int, body: CancelBody) -> Cancelled:
        """Cancel a pending or running job.

        Answers once Flux has taken the request; the job ends a moment later, and has the result CANCELED then.
        """
        state = await self._store.state(job)
        if state is None:
            raise unknown(job)
        if state == "INACTIVE":
            raise Conflict(f"Job cannot be cancelled: {fluid.f58(job)} has ended already.")
        await self._instance.cancel(job, body.reason)
        return Cancelled("Job is requested to cancel.", job, fluid.f58(job))


def unknown(job: int) -> NotFound:
    """Return the error for a job that the store does not know."""
    return NotFound(f"There is no job {fluid.f58(job)} ({job}).")


def _filter(query: ListQuery) -> Filter:
    before = None
    if query.cursor is not None:
        try:
            before = fluid.parse(query.cursor)
        except ValueError:
            raise InvalidRequest(f"cursor: {query.cursor!r} is none; take it from a page's Link header.") from None
    return Filter(
        states=_words("state", query.state, STATES),
        results=_words("result", query.result, RESULTS),
        user=query.user,
        queue=query.queue,
        name=query.name,
        since=query.since,
        until=query.until,
        before_id=min(before, 2**63 - 1) if before is not None else None,
    )


def _words(name: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for word in (text or "").upper().split(",") if text is not None else ():
        words = _STATE_GROUPS.get(word, (word,)) if name == "state" else (word,)
        if not set(words) <= set(known):
            choices = [*known, *_STATE_GROUPS] if name == "state" else known
            raise InvalidRequest(f"{name}: {word!r} is none; use {', '.join(choices)}.")
        found += words
    return tuple(dict.fromkeys(found))


def _brief(rows: list[Short], cursor: str | None) -> bytes:
    jobs = [Brief(id_, fluid.f58(id_), state, result, name) for id_, state, result, name in rows]
    return msgspec.json.encode(JobList(jobs, cursor))


async def _inline(function: Any, *args: Any) -> Any:
    return function(*args)


def _plain_f58(job: int) -> str:
    """Spell an id in ASCII, for addresses and headers."""
    return fluid.f58(job).replace("ƒ", "f")


async def _values(chunks: AsyncIterator[list[tuple[int, bytes]]]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield b",".join(job for _, job in chunk)


async def _items(chunks: AsyncIterator[list[tuple[int, bytes]]]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield b",".join(b'"%d":%b' % item for item in chunk)


async def stream_json(
    request: web.Request,
    pieces: AsyncIterator[bytes],
    opening: bytes,
    closing: bytes,
    headers: dict[str, str] | None = None,
) -> web.StreamResponse:
    """Answer with a JSON array or object in pieces: memory does not grow with the number of jobs."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", **(headers or {})})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    separator = opening
    async for piece in pieces:
        await response.write(separator + piece)
        separator = b","
    await response.write((b"" if separator == b"," else opening) + closing + b"\n")
    await response.write_eof()
    return response
