"""``/v1/jobs/search``: the protocol of DataTables, as the predecessor's page and clients speak it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.pages import Pages
from sidecar.api.pieces import stream_pieces
from sidecar.api.routing import Answer, operation
from sidecar.errors import InvalidRequest
from sidecar.feed import Feed
from sidecar.model import Job
from sidecar.store import Search, Store
from sidecar.store.query import ORDERS

_ONE_PIECE = 200  # matches that are sent in one piece
_ORDER = re.compile(r"order\[(\d+)\]\[column\]")


class SearchQuery(msgspec.Struct, kw_only=True):
    """A window of the jobs that hold a text; DataTables' own names (search[value], order[0][column]) work too."""

    query: Annotated[str | None, Meta(description="text anywhere in a job; case does not matter")] = None
    search: Annotated[str | None, Meta(description="the same as query")] = None
    start: Annotated[int, Meta(ge=0, description="first match to return")] = 0
    length: Annotated[int, Meta(ge=-1, description="how many to return; -1 or absent: all")] | None = None
    draw: Annotated[int, Meta(description="returned as it came")] = 1


class SearchResult(msgspec.Struct):
    """A window of the matches."""

    data: list[Job]
    draw: int
    # DataTables' own names.
    recordsTotal: Annotated[int, Meta(description="all jobs")]
    recordsFiltered: Annotated[int, Meta(description="the jobs in data: after query, start and length")]
    recordsMatched: Annotated[int, Meta(description="the jobs that match the query")]


class JobSearch:
    """Search over all jobs."""

    tag = "jobs"

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        self._pages = Pages()

    @operation(
        "GET",
        "/v1/jobs/search",
        query=SearchQuery,
        loose=True,
        answers=(Answer("A window of the matches", SearchResult),),
        errors=(400,),
    )
    async def search(self, request: web.Request, query: SearchQuery) -> web.StreamResponse:
        """Search jobs, as DataTables' server-side processing asks.

        recordsFiltered counts what is left after query, start and length; recordsMatched what matches the query.
        """
        parameters = request.query
        text = query.query or parameters.get("search[value]") or query.search or ""
        if "\0" in text:
            raise InvalidRequest("query: a NUL byte cannot be part of it.")
        length = None if query.length in (None, -1) else query.length
        await self._feed.settle()
        revision = self._store.revision
        search = Search(text=text, start=query.start, length=length, order=_order(parameters))
        if page := self._pages.get(revision, search):
            return web.Response(body=page.body % query.draw, headers=page.headers)
        total, matched = await self._store.count(), await self._store.count(text)
        left = max(0, matched - query.start)
        window = left if length is None else min(left, length)
        # Jobs may be added while the answer is on its way: the window has the size that the counts say.
        chunks = self._store.search(msgspec.structs.replace(search, length=window))
        closing = b'],"draw":%%d,"recordsTotal":%d,"recordsFiltered":%d,"recordsMatched":%d}\n' % (
            total,
            window,
            matched,
        )
        headers = {"Content-Type": "application/json"}
        if window > _ONE_PIECE:
            return await stream_pieces(request, _pieces(chunks, closing % query.draw), headers)
        rows = b",".join([row async for chunk in chunks for row in chunk])
        body = b'{"data":[' + rows.replace(b"%", b"%%") + closing
        if b'"state":"RUN"' not in rows:  # the runtime of a job grows by itself
            self._pages.put(revision, search, body, headers)
        return web.Response(body=body % query.draw, headers=headers)


def _order(parameters: Mapping[str, str]) -> tuple[tuple[str, bool], ...]:
    """Read order[i][column], order[i][dir] and columns[n][data]; unknown columns are passed over."""
    found: list[tuple[int, str, bool]] = []
    for name, value in parameters.items():
        if match := _ORDER.fullmatch(name):
            column = parameters.get(f"columns[{value}][data]", value)
            down = parameters.get(f"order[{match[1]}][dir]", "asc") == "desc"
            if column in ORDERS:
                found.append((int(match[1]), column, down))
    return tuple((column, down) for _, column, down in sorted(found))


async def _pieces(chunks: AsyncIterator[list[bytes]], closing: bytes) -> AsyncIterator[bytes]:
    before = b'{"data":['
    async for chunk in chunks:
        yield before + b",".join(chunk)
        before = b","
    yield (b"" if before == b"," else before) + closing
