"""Lists and searches, which return the JSON of many jobs."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from sidecar.domain.model import Brief
from sidecar.store.connections import Connections
from sidecar.store.damage import Damage
from sidecar.store.documents import running_job
from sidecar.store.query import DOCUMENT, JOINED, Filter, Search
from sidecar.store.rows import Page

T = TypeVar("T")

_Statement = tuple[str, Sequence[Any]]
"""SQL, and its parameters."""
_CHUNK = 500  # jobs
_LARGEST_PAGE = 1024 * 1024  # bytes; the job that exceeds them is the last one of its page
_LARGEST_CHUNK = 256 * 1024  # the same for a chunk of a long list; a stalled reader keeps one in memory
_INLINE_BRIEF, _INLINE_FULL = 500, 200  # largest pages that are read on the event loop
_INT64 = 2**63 - 1
_BRIEF = "SELECT id, CAST(f58id AS TEXT), CAST(state AS TEXT), CAST(result AS TEXT), CAST(name AS TEXT) FROM jobs"
_FULL = f"SELECT {DOCUMENT} FROM {JOINED}"  # noqa: S608 - constants


class _PageQuery(NamedTuple):
    """The jobs of a page."""

    where: Filter
    limit: int | None
    shape: str
    largest: int
    """Bytes after which the page ends early."""


class _Window(NamedTuple):
    """A part of the matches of a search."""

    start: int
    length: int


class Lists:
    """Read lists of jobs.

    Args:
        connections: of the store's file.
        damage: checks each job.
    """

    def __init__(self, connections: Connections, damage: Damage) -> None:
        self._connections = connections
        self._damage = damage

    async def page(self, where: Filter, limit: int | None, shape: str = "brief", separator: str = ",") -> Page:
        """Return matching jobs as JSON, newest first.

        A large page ends early: then ``last`` is set, and ``length`` is smaller than the limit.

        Args:
            where: the jobs.
            limit: maximum number of jobs.
            shape: ``brief``, ``full``, or ``keyed`` for ``"<id>":<full>``.
            separator: text between two jobs.
        """
        position = self._connections.position  # the list may reflect later events, but none is missing
        query = _PageQuery(where, limit, shape, _LARGEST_PAGE)
        rows, last = await self._read_page(query, export=False)
        return Page(separator.encode().join(rows), last, position, len(rows))

    async def _read_page(self, query: _PageQuery, *, export: bool) -> tuple[list[bytes], int | None]:
        def read(db: sqlite3.Connection) -> tuple[list[bytes], int | None]:
            return _page(db, self._damage, query)

        largest = _INLINE_BRIEF if query.shape == "brief" else _INLINE_FULL
        if query.where.indexed and query.limit is not None and query.limit <= largest:
            return await self._connections.read_inline(read)
        return await self._connections.read_in_thread(read, export=export)

    async def chunks(self, where: Filter, limit: int | None, shape: str, separator: str = ",") -> AsyncIterator[bytes]:
        """Yield what :meth:`page` returns in chunks: memory grows neither with the number of jobs nor their size."""
        left = limit
        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            rows, last = await self._read_page(_PageQuery(where, count, shape, _LARGEST_CHUNK), export=True)
            if rows:
                yield separator.encode().join(rows)
            if last is None:
                return
            where = msgspec.structs.replace(where, before_id=last)
            left = None if left is None else left - len(rows)

    async def last_of_page(self, where: Filter, limit: int) -> int | None:
        """Return the ID of the last job on a page of ``limit`` jobs; None if there are no more after it."""
        if not limit:
            return None
        condition, values = where.where()
        sql = f"SELECT id FROM jobs WHERE {condition} ORDER BY id DESC LIMIT 2 OFFSET ?"  # noqa: S608 - values are bound
        rows = await self._connections.fetch_in_thread(sql, (*values, limit - 1))
        return rows[0][0] if len(rows) == 2 else None

    async def jobids(self, where: Filter) -> list[int]:
        """Return the IDs of all matching jobs, newest first."""
        condition, values = where.where()
        sql = f"SELECT id FROM jobs WHERE {condition} ORDER BY id DESC"  # noqa: S608 - values are bound
        return [row[0] for row in await self._connections.fetch_in_thread(sql, values)]

    async def search(self, search: Search) -> AsyncIterator[bytes]:
        """Yield the JSON of the jobs in the search's window, in chunks; jobs in a chunk are separated by commas."""
        start, left = search.start, search.length
        statement = search.select(DOCUMENT)
        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            jobs = await self._read_search(statement, _Window(start, count), export=left is None or left > _CHUNK)
            if not jobs:
                return
            yield b",".join(jobs)
            start += len(jobs)
            left = None if left is None else left - len(jobs)

    async def _read_search(self, statement: _Statement, window: _Window, *, export: bool) -> list[bytes]:
        return await self._connections.read_in_thread(
            lambda db: _search(db, self._damage, statement, window), export=export
        )

    async def table(self, search: Search, where: Filter, read: Callable[[bytes], T]) -> list[T]:
        """Return the jobs in a search's window that match a filter.

        Args:
            search: the window, and its order.
            where: the filter.
            read: called in a thread with the JSON of each job, which may be large; returns the part to keep.
        """
        statement = search.within(where, DOCUMENT)
        return await self._connections.read_in_thread(lambda db: _table(db, self._damage, statement, read))


def _page(db: sqlite3.Connection, damage: Damage, query: _PageQuery) -> tuple[list[bytes], int | None]:
    """Return the JSON of jobs, newest first, and the last one's ID if there are more."""
    if query.shape != "brief":
        return _full(db, damage, query)
    own = db.text_factory
    db.text_factory = str  # SQLite's own decoding takes a fraction of the time, but fails if a text is damaged
    try:
        return _brief(db, query)
    except sqlite3.OperationalError as exc:
        if getattr(exc, "sqlite_errorcode", None) is not None:
            raise
        db.text_factory = own
        return _brief(db, query)
    finally:
        db.text_factory = own


def _brief(db: sqlite3.Connection, query: _PageQuery) -> tuple[list[bytes], int | None]:
    jobs: list[bytes] = []
    size, last = 0, None
    for row in _rows(db, _BRIEF, query):
        if len(jobs) == query.limit or size > query.largest:
            return jobs, last
        last, json = row[0], _encode(Brief(*row))
        jobs.append(json)
        size += len(json)
    return jobs, None


def _full(db: sqlite3.Connection, damage: Damage, query: _PageQuery) -> tuple[list[bytes], int | None]:
    jobs: list[bytes] = []
    size, last = 0, None
    now = time.time()
    for row in _rows(db, _FULL, query):
        if len(jobs) == query.limit or size > query.largest:
            return jobs, last
        last, json = row[0], running_job(damage.job(db, *row[:2]), row[2], now)
        if query.shape == "keyed":
            json = b'"%d":%b' % (last, json)
        jobs.append(json)
        size += len(json)
    return jobs, None


def _rows(db: sqlite3.Connection, select: str, query: _PageQuery) -> sqlite3.Cursor:
    """Select the jobs of a page, and one more, which shows whether there are more."""
    condition, values = query.where.where()
    rows = -1 if query.limit is None else min(query.limit + 1, _INT64) if query.limit else 0
    return db.execute(f"{select} WHERE {condition} ORDER BY id DESC LIMIT ?", (*values, rows))


def _search(db: sqlite3.Connection, damage: Damage, statement: _Statement, window: _Window) -> list[bytes]:
    """Return the JSON of matching jobs in a window; fewer if they are large."""
    sql, values = statement
    jobs: list[bytes] = []
    size, now = 0, time.time()
    for jobid, cell, running in db.execute(sql, (*values, window.length, window.start)):
        jobs.append(json := running_job(damage.job(db, jobid, cell), running, now))
        size += len(json)
        if size > _LARGEST_CHUNK:
            break
    return jobs


def _table(db: sqlite3.Connection, damage: Damage, statement: _Statement, read: Callable[[bytes], T]) -> list[T]:
    """Return what ``read`` makes of the JSON of each matching job."""
    now = time.time()
    return [
        read(running_job(damage.job(db, jobid, cell), running, now)) for jobid, cell, running in db.execute(*statement)
    ]


_encode = msgspec.json.Encoder().encode
