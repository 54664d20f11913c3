"""Every question that the store answers."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from sidecar import fluid
from sidecar.store.query import Filter, Search
from sidecar.store.rows import Page, Stored, Told
from sidecar.store.store import Writer

_CHUNK = 500
_COUNTS = 1000  # texts whose counts are kept
_PAGE = 200  # rows of a page that is read at once
_TOLD = """
SELECT position, job, count, events.json, coalesce(userid, -1), coalesce(username, ''), coalesce(queue, ''),
  coalesce(name, ''), coalesce(t_submit, 0) FROM events LEFT JOIN jobs ON jobs.id = job
"""


class Store(Writer):
    """All jobs and all events, in one SQLite file. Methods are coroutines; none blocks the event loop for long."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._counts: dict[str, asyncio.Future[list[Any]]] = {}
        self._counted = ("", -1)

    # ----------------------------------------------------------------------------------------------- one job

    async def job(self, fluid_: int) -> bytes | None:
        """Return the JSON of one job, None when there is no such job."""
        rows = await self._at_once("SELECT running, json FROM documents WHERE job = ?", (_signed(fluid_),))
        return _complete(*rows[0]) if rows else None

    async def state(self, fluid_: int) -> str | None:
        """Return the state of one job, None when there is no such job."""
        rows = await self._at_once("SELECT state FROM jobs WHERE id = ?", (_signed(fluid_),))
        return rows[0][0] if rows else None

    async def jobspec(self, fluid_: int) -> bytes | None:
        """Return the JSON of a job's jobspec, without its environment; None when there is no such job."""
        rows = await self._at_once("SELECT json FROM jobspecs WHERE job = ?", (_signed(fluid_),))
        return rows[0][0] if rows else None

    async def eventlog(self, fluid_: int) -> list[Stored]:
        """Return a job's eventlog."""
        rows = await self._at_once("SELECT json FROM events WHERE job = ? ORDER BY position", (_signed(fluid_),))
        return [entry for (json,) in rows for entry in msgspec.json.decode(json, type=list[Stored])]

    async def key(self, key: str) -> tuple[int, str] | None:
        """Return the job that was submitted with an idempotency key, and the digest of its request."""
        rows = await self._at_once("SELECT job, digest FROM keys WHERE key = ?", (key,))
        return rows[0] if rows else None

    async def record(self, fluid_: int) -> tuple[bytes, bytes, int, list[Stored]] | None:
        """Return what is needed to go on folding a job: job, jobspec, number of events, eventlog."""
        rows = await self._at_once(
            "SELECT documents.json, coalesce(jobspecs.json, '{}'), nevents FROM jobs JOIN documents "
            "ON documents.job = id LEFT JOIN jobspecs ON jobspecs.job = id WHERE id = ?",
            (fluid_,),
        )
        return (*rows[0], await self.eventlog(fluid_)) if rows else None

    # ------------------------------------------------------------------------------------------------- lists

    async def page(self, where: Filter, limit: int | None) -> Page:
        """Return matching jobs in brief, newest first."""
        sql, values = where.where()
        query = (
            "SELECT group_concat(brief), count(*), min(id) FROM "  # noqa: S608 - values are bound
            f"(SELECT brief, id FROM jobs WHERE {sql} ORDER BY id DESC LIMIT ?)"
        )
        read = self._at_once if where.indexed and limit is not None and limit <= _PAGE else self._fetch
        position = self.position  # the list may know of more than that, and of nothing less
        [(text, count, last)] = await read(query, (*values, -1 if limit is None else limit))
        more = False
        if limit and count == limit:
            sql, values = msgspec.structs.replace(where, before_id=last).where()
            more = bool(await read(f"SELECT 1 FROM jobs WHERE {sql} LIMIT 1", values))  # noqa: S608
        return Page((text or "").encode(), last if more else None, position)

    async def list_full(self, where: Filter, limit: int | None) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Yield (id, JSON) of matching jobs, newest first, in chunks: memory does not grow with the number."""
        left = limit
        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            sql, values = where.where()
            query = (
                "SELECT id, running, json FROM jobs JOIN documents ON job = id "  # noqa: S608 - values are bound
                f"WHERE {sql} ORDER BY id DESC LIMIT ?"
            )
            read = self._at_once if where.indexed and count <= _PAGE else self._fetch
            rows = await read(query, (*values, count))
            if rows:
                yield [(row[0], _complete(row[1], row[2])) for row in rows]
            if len(rows) < count:
                return
            where = msgspec.structs.replace(where, before_id=rows[-1][0])
            left = None if left is None else left - count

    async def ids(self, where: Filter) -> list[int]:
        """Return the ids of all matching jobs, newest first."""
        sql, values = where.where()
        return [row[0] for row in await self._fetch(f"SELECT id FROM jobs WHERE {sql} ORDER BY id DESC", values)]  # noqa: S608

    async def search(self, search: Search) -> AsyncIterator[list[bytes]]:
        """Yield the JSON of the jobs in the search's window, in chunks."""
        start, left = search.start, search.length
        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            query, values = search.select("running, json")
            rows = await self._fetch(f"{query} LIMIT ? OFFSET ?", (*values, count, start))
            if rows:
                yield [_complete(*row) for row in rows]
            if len(rows) < count:
                return
            start += count
            left = None if left is None else left - count

    async def count(self, text: str = "") -> int:
        """Return how many jobs match a search's text, or with none how many there are.

        To count what matches takes as long as there are matches: it is done once for each text, until something is
        written, however many callers wait for it.
        """
        now = (self.id, self.position)
        if self._counted != now or len(self._counts) >= _COUNTS:
            self._counts, self._counted = {}, now
        if text not in self._counts:
            query, values = Search(text=text).count()
            self._counts[text] = asyncio.ensure_future(self._fetch(query, values))
        try:
            return int((await asyncio.shield(self._counts[text]))[0][0])
        except sqlite3.Error:
            self._counts.clear()
            raise

    # ------------------------------------------------------------------------------------------------ events

    async def told(self, after: int, upto: int, limit: int, job: int | None = None) -> list[Told]:
        """Return what was told behind a position and up to another, of all jobs or of one, in their order."""
        only, values = ("AND job = ?", (job,)) if job is not None else ("", ())
        rows = await self._fetch(
            f"{_TOLD} WHERE position > ? AND position <= ? {only} ORDER BY position LIMIT ?",
            (after, upto, *values, limit),
        )
        return [
            Told(position, fluid_, count, json, fluid.f58(fluid_), *which)
            for position, fluid_, count, json, *which in rows
        ]

    # ----------------------------------------------------------------------------------------- for the feed

    async def progress(self) -> dict[int, int]:
        """Return the number of events that each job holds: what need not be read again."""
        return dict(await self._fetch("SELECT id, nevents FROM jobs"))

    async def active(self) -> list[int]:
        """Return the ids of the jobs that are not inactive."""
        return [row[0] for row in await self._fetch("SELECT id FROM jobs WHERE state != 'INACTIVE'")]


def _complete(running: float | None, json: bytes) -> bytes:
    """Add the runtime so far to a running job."""
    if running is None:
        return json
    return json[:-1] + b',"runtime":%.6f}' % max(0.0, time.time() - running)


def _signed(fluid_: int) -> int:
    """SQLite's integers end at 2^63; no real FLUID is that large, so such an id matches nothing."""
    return fluid_ if fluid_ < 2**63 else -1
