"""``/v1/jobs``: list jobs. Every read comes from the store."""

from __future__ import annotations

import functools
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from sidecar.api import filters, fresh, position
from sidecar.api.filters import JobFilter
from sidecar.domain import fluid
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import Brief, Job
from sidecar.http import conditional
from sidecar.http.html import relative_root
from sidecar.http.negotiation import MEDIA_TYPE, NDJSON
from sidecar.http.operations import Answer, operation
from sidecar.http.page_cache import ResponseCache
from sidecar.http.streaming import framed, stream_chunks
from sidecar.http.whole import WholeResponse
from sidecar.journal.feed import Feed
from sidecar.store import Filter, Store

_RUNNING = b'"state":"RUN","result":"","returncode"'  # in a job with all its fields
_ONE_CHUNK = 200  # jobs that are sent in one chunk


_Key = tuple[str, bool]
"""What a page depends on besides the store: the query string, and whether the page is NDJSON."""


class _Format(NamedTuple):
    """How a list of whole jobs is written."""

    fields: str
    """The form in which the store returns each job."""
    media: str
    separator: str
    opening: bytes
    closing: bytes


_ARRAY = _Format("full", "application/json", ",", b"[", b"]\n")
_LINES = _Format("full", NDJSON, "\n", b"", b"\n")
_OBJECT = _Format("keyed", "application/json", ",", b"{", b"}\n")


class ListQuery(JobFilter, kw_only=True, frozen=True):
    """The jobs to list, and the form of the list."""

    details: Annotated[bool | None, Meta(description="all fields of each job, as an object by id")] = None
    detail: Annotated[bool | None, Meta(description="the same as details")] = None
    listing: Annotated[bool | None, Meta(description="with details: an array instead of an object")] = None
    limit: Annotated[int, Meta(ge=0, description="maximum number of jobs; all when absent")] | None = None
    cursor: Annotated[str | None, Meta(description="continue where a page ended; from its Link header")] = None


class JobList(msgspec.Struct, omit_defaults=True):
    """A plain list of jobs."""

    jobs: Annotated[list[Brief], Meta(description="newest first")]
    position: Annotated[str, Meta(description="/v1/events?after= continues from here without a gap")]
    cursor: Annotated[str | None, Meta(description="where the next page starts; absent on the last page")] = None


class JobListing:
    """List jobs.

    Args:
        store: holds the jobs.
        feed: the journal, which has the barrier for reads.
    """

    tag = "jobs"

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        self._cache = ResponseCache()

    @operation(
        "GET",
        "/v1/jobs",
        query=ListQuery,
        compress=True,
        headers=conditional.REQUEST_HEADERS,
        answers=(
            Answer("The jobs, newest first", JobList | dict[str, Job] | list[Job], ("application/json", NDJSON)),
            conditional.NOT_MODIFIED,
        ),
        errors=(400,),
    )
    async def list(self, request: web.Request, query: ListQuery) -> Any:
        """List jobs, newest first.

        Plain: {"jobs": [{"id": ...}]}. With details=true an object of jobs by id; with listing=true too, an array.
        When limit cuts the list, a Link header of rel="next" leads to the next page. For Accept: application/x-ndjson
        the response has all fields of every match, one job per line. The header Flux-Events-Position, and position in
        the plain list, is where /v1/events?after= continues. A page has an ETag, unless it shows how long jobs have
        been running.
        """
        where = _filter(query)
        await fresh.settle(request, self._feed)
        lines = request[MEDIA_TYPE] == NDJSON
        key = (request.rel_url.raw_query_string, lines)
        revision = self._store.revision
        if conditional.is_conditional(request) and (
            unchanged := conditional.not_modified(request, _tag(revision, key))
        ):
            return unchanged
        if cached := self._cache.get(revision, key):
            return WholeResponse(body=cached.body, headers=cached.headers)
        if not lines and not (query.details or query.detail):
            return self._cached(revision, key, await self._plain(request, where, query.limit))
        form = _LINES if lines else _ARRAY if query.listing else _OBJECT
        if (
            query.limit is not None
            and query.limit <= _ONE_CHUNK
            and (whole := await self._one_chunk(request, where, query.limit, form))
        ):
            return self._cached(revision, key, whole)
        return await self._chunks(request, where, query.limit, form)

    def _cached(self, revision: int, key: _Key, response: web.StreamResponse) -> web.StreamResponse:
        """Cache and tag a page until the store changes, unless it has running jobs: their runtime grows meanwhile."""
        body = response.body if isinstance(response, web.Response) else None
        if isinstance(body, bytes) and _RUNNING not in body:
            response.headers[hdrs.ETAG] = _tag(revision, key)
            self._cache.put(revision, key, body, response.headers)
        return response

    async def _plain(self, request: web.Request, where: Filter, limit: int | None) -> web.StreamResponse:
        page = await self._store.lists.page(where, limit)
        event_id = position.format_event_id(self._store, page.position)
        cut = page.last is not None and page.length != limit  # the page is large, and has not all requested jobs
        last = page.last
        if cut:
            last = None if limit is None else await self._store.lists.last_of_page(where, limit)
        cursor = b',"cursor":"%b"' % fluid.f58_ascii(last).encode() if last is not None else b""
        closing = b'],"position":"%b"%b}\n' % (event_id.encode(), cursor)
        headers = {"Content-Type": "application/json", position.HEADER: event_id, **_next_link(request, last)}
        if not cut:
            return WholeResponse(body=b'{"jobs":[' + page.json + closing, headers=headers)
        del page
        chunks = self._store.lists.chunks(where, limit, "brief")
        return await stream_chunks(request, framed(chunks, b",", b'{"jobs":[', closing), headers)

    async def _one_chunk(self, request: web.Request, where: Filter, limit: int, form: _Format) -> web.Response | None:
        """Return a short list as one body; None when its jobs are too large for that."""
        page = await self._store.lists.page(where, limit, form.fields, form.separator)
        if page.last is not None and page.length < limit:
            return None
        event_id = position.format_event_id(self._store, page.position)
        headers = {"Content-Type": form.media, position.HEADER: event_id, **_next_link(request, page.last)}
        body = form.opening + page.json + form.closing if page.json or form.opening else b""
        return WholeResponse(body=body, headers=headers)

    async def _chunks(
        self, request: web.Request, where: Filter, limit: int | None, form: _Format
    ) -> web.StreamResponse:
        event_id = position.format_event_id(self._store, self._store.position)
        headers = {"Content-Type": form.media, position.HEADER: event_id}
        if limit is not None:
            headers |= _next_link(request, await self._store.lists.last_of_page(where, limit))
        chunks = self._store.lists.chunks(where, limit, form.fields, form.separator)
        return await stream_chunks(
            request, framed(chunks, form.separator.encode(), form.opening, form.closing), headers
        )


def _tag(revision: int, key: _Key) -> str:
    query, lines = key
    return conditional.weak_tag(revision, f"{query}{NDJSON if lines else ''}")


@functools.lru_cache(maxsize=256)
def _filter(query: ListQuery) -> Filter:
    where = filters.read(query)
    if query.cursor is None:
        return where
    try:
        before = fluid.parse(query.cursor)
    except ValueError:
        raise InvalidRequest(f"unknown cursor {query.cursor!r}; use the one of a page's Link header.") from None
    return msgspec.structs.replace(where, before_id=min(before, 2**63 - 1))


def _next_link(request: web.Request, last: int | None) -> dict[str, str]:
    """Return the Link header that leads to the next page, if there is one."""
    if last is None:
        return {}
    query = urlencode({**request.query, "cursor": fluid.f58_ascii(last)})
    return {"Link": f'<{relative_root(request.path)}{request.path[1:]}?{query}>; rel="next"'}
