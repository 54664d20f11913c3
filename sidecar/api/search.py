"""``/v1/jobs/search``: DataTables' server-side processing, as the predecessor's page and clients use it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from sidecar.api import fresh
from sidecar.domain import untrusted
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import Job
from sidecar.http import conditional
from sidecar.http.operations import Answer, operation
from sidecar.http.page_cache import ResponseCache
from sidecar.http.streaming import framed, whole_or_chunks
from sidecar.http.whole import WholeResponse
from sidecar.journal.feed import Feed
from sidecar.store import Search, Store
from sidecar.store.query import ORDERS, sort_problem

_ONE_CHUNK = 200  # matches that are sent in one chunk
_COMPUTED = ("", "function")  # columns[n][data] of a column that is not a field of a job
_COLUMN = re.compile(r"columns\[[0-9]{1,4}\]\[search\]\[(value|regex)\]")
_ORDER = re.compile(r"order\[([0-9]{1,4})\]\[column\]")


class SearchQuery(msgspec.Struct, kw_only=True, frozen=True):
    """A window of the matches; DataTables' own names (search[value], order[0][column]) work too."""

    query: Annotated[str | None, Meta(description="text anywhere in a job, in any case")] = None
    search: Annotated[str | None, Meta(description="the same as query")] = None
    start: Annotated[int, Meta(ge=0, description="first match to return")] = 0
    length: Annotated[int, Meta(ge=-1, description="maximum number of matches to return; -1 or absent: all")] | None = (
        None
    )
    draw: Annotated[int, Meta(description="returned unchanged")] = 1


class SearchResult(msgspec.Struct):
    """A window of the matches."""

    data: Annotated[list[Job], Meta(description="the jobs of the window")]
    draw: Annotated[int, Meta(description="draw of the request")]
    recordsTotal: Annotated[int, Meta(description="number of all jobs")]
    recordsFiltered: Annotated[int, Meta(description="number of jobs in data: after query, start and length")]
    recordsMatched: Annotated[int, Meta(description="number of jobs that match the query")]


class JobSearch:
    """Search all jobs.

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
        "/v1/jobs/search",
        query=SearchQuery,
        compress=True,
        loose=True,
        headers=conditional.REQUEST_HEADERS,
        answers=(Answer("A window of the matches", SearchResult), conditional.NOT_MODIFIED),
        errors=(400,),
    )
    async def search(self, request: web.Request, query: SearchQuery) -> web.StreamResponse:
        """Search jobs with DataTables' server-side processing.

        recordsFiltered counts the jobs after query, start and length; recordsMatched those that match the query. The
        beginning of each field is searched: 2,048 bytes of a command or a list of nodes, 1,024 of any other. A job's id
        is found in every spelling. order[0][column], order[0][dir] and columns[0][data] sort by any field of a job that
        is a number or text, and by those of its exception, such as exception.type; of more than 10,000 matches only by
        columns of the table of jobs, of more than 200,000 by id, t_submit, state, result, name and username. Any other
        sort, a search in one column and a regular expression are 400.
        """
        parameters = request.query
        _check_columns(parameters)
        text = query.query or parameters.get("search[value]") or query.search or ""
        if "\0" in text:
            raise InvalidRequest("query: it must not contain a NUL byte.")
        length = None if query.length in (None, -1) else query.length
        await fresh.settle(request, self._feed)
        revision = self._store.revision
        search = Search(text=text, start=query.start, length=length, order=_order(parameters))
        draw = b"%d}\n" % query.draw
        tag = conditional.weak_tag(revision, request.rel_url.raw_query_string)
        if unchanged := conditional.not_modified(request, tag):
            return unchanged
        if cached := self._cache.get(revision, search):
            return WholeResponse(body=cached.body + draw, headers={**cached.headers, hdrs.ETAG: tag})
        total, matched = await self._store.counts.jobs(), await self._store.counts.jobs(text)
        if problem := sort_problem(search.order, matched):
            raise InvalidRequest(f"order: {problem}")
        left = max(0, matched - query.start)
        window = left if length is None else min(left, length)
        # Jobs may be added while the response is sent: the window keeps the size that the counts say.
        jobs = self._store.lists.search(msgspec.structs.replace(search, length=window))
        closing = b'],"recordsTotal":%d,"recordsFiltered":%d,"recordsMatched":%d,"draw":' % (total, window, matched)
        chunks = framed(jobs, b",", b'{"data":[', closing + draw)
        response = await whole_or_chunks(
            request, chunks, {"Content-Type": "application/json"}, short=window <= _ONE_CHUNK
        )
        body = response.body if isinstance(response, web.Response) else None
        by_runtime = any(name == "runtime" for name, _ in search.order)  # changes while a job runs
        if isinstance(body, bytes) and b'"state":"RUN"' not in body and not by_runtime:
            self._cache.put(revision, search, body.removesuffix(draw), response.headers)
            response.headers[hdrs.ETAG] = tag
        return response


def _check_columns(parameters: Mapping[str, str]) -> None:
    """Refuse DataTables' searches that are not supported: without them the response would have other jobs.

    Raises:
        InvalidRequest: the request has a search in one column, or a regular expression.
    """
    for name, value in parameters.items():
        column = _COLUMN.fullmatch(name)
        if name == "search[regex]" or (column and column[1] == "regex"):
            if value.lower() == "true":
                raise InvalidRequest(
                    f"{name}: regular expressions are not supported; use query= with a part of the text."
                )
        elif column and value:
            raise InvalidRequest(
                f"{name}: a search in one column is not supported; use query=, or the filters of /v1/jobs."
            )


def _order(parameters: Mapping[str, str]) -> tuple[tuple[str, bool], ...]:
    """Return the order that order[i][column], order[i][dir] and columns[n][data] describe.

    Raises:
        InvalidRequest: jobs cannot be sorted by a column.
    """
    found: list[tuple[int, str, bool]] = []
    for name, value in parameters.items():
        if match := _ORDER.fullmatch(name):
            column = parameters.get(f"columns[{value}][data]", value)
            if column in _COMPUTED:  # the table renders it by itself
                continue
            if column not in ORDERS:
                known = ", ".join(sorted(ORDERS))
                raise InvalidRequest(f"{name}: unknown column {untrusted.shown(column)}; use one of {known}.")
            found.append((int(match[1]), column, parameters.get(f"order[{match[1]}][dir]", "asc").lower() == "desc"))
    return tuple((column, down) for _, column, down in sorted(found))
