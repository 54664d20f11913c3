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
from sidecar.model import STATES
from sidecar.store.query import Filter, Search
from sidecar.store.rows import Page, Stored, Told
from sidecar.store.store import Writer

_ACTIVE = tuple(state for state in STATES if state != "INACTIVE")  # by name: only so does the index over states help
_CHUNK = 500
_COUNTS = 1000  # texts whose counts are kept
_BRIEF, _FULL = 500, 200  # rows of a page that is read at once
_HOT = 1024
# A job that runs is stored without its runtime so far.
_FULL_JSON = (
    "iif(running IS NULL, json, substr(json, 1, length(json) - 1) || printf(',\"runtime\":%.6f}', max(0, ? - running)))"
)
_BOTH = "jobs JOIN documents ON job = id"
_SHAPES = {
    "brief": ("brief", "jobs"),
    "full": (_FULL_JSON, _BOTH),
    "keyed": (f"printf('\"%d\":', id) || {_FULL_JSON}", _BOTH),
}
_TOLD = """
SELECT position, job, count, events.json, coalesce(userid, -1), coalesce(username, ''),
  coalesce(submitter, ''), coalesce(queue, ''),
  coalesce(name, ''), coalesce(t_submit, 0) FROM events LEFT JOIN jobs ON jobs.id = job
"""


_KINDS = """
SELECT queue, state, 0, 0, 0, count(*) FROM jobs WHERE state != 'SCHED' GROUP BY queue, state
UNION ALL
SELECT queue, state, urgency = 0, iif(urgency = 0, 0, nodes), iif(urgency = 0, 0, cores), count(*) FROM (
  SELECT queue, state, json_extract(json, '$.urgency') AS urgency, CAST(json_extract(json, '$.nnodes') AS INTEGER) AS
    nodes, CAST(json_extract(json, '$.ncores') AS INTEGER) AS cores
  FROM jobs JOIN documents ON job = id WHERE state = 'SCHED')
GROUP BY 1, 2, 3, 4, 5
"""


class Store(Writer):
    """All jobs and all events, in one SQLite file. Methods are coroutines; none blocks the event loop for long."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._counts: dict[str, asyncio.Future[list[Any]]] = {}
        self._counted = -1

    # ----------------------------------------------------------------------------------------------- one job

    async def job(self, fluid_: int) -> bytes | None:
        """Return the JSON of one job, None when there is no such job."""
        found = self._hot.get(fluid_)
        if found is None:
            query = "SELECT running, CAST(json AS BLOB) FROM documents WHERE job = ?"
            rows = await self._at_once(query, (_signed(fluid_),))
            if not rows:
                return None
            if len(self._hot) >= _HOT:
                self._hot.clear()
            found = self._hot[fluid_] = rows[0]
        running, json = found
        # A job that runs is stored without its runtime so far.
        return json if running is None else json[:-1] + b',"runtime":%.6f}' % max(0.0, time.time() - running)

    async def state(self, fluid_: int) -> str | None:
        """Return the state of one job, None when there is no such job."""
        rows = await self._at_once("SELECT state FROM jobs WHERE id = ?", (_signed(fluid_),))
        return rows[0][0] if rows else None

    async def last(self, fluid_: int) -> tuple[str, int]:
        """Return the state of one job, and the position of the last event that has made it so."""
        rows = await self._at_once(
            "SELECT state, (SELECT max(position) FROM events WHERE job = id) FROM jobs WHERE id = ?",
            (_signed(fluid_),),
        )
        return (rows[0][0], rows[0][1] or 0) if rows else ("", 0)

    async def submitter(self, fluid_: int) -> str:
        """Return who has submitted a job by way of this server; empty when nobody has."""
        rows = await self._at_once("SELECT submitter FROM jobs WHERE id = ?", (_signed(fluid_),))
        return rows[0][0] if rows else ""

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

    async def page(self, where: Filter, limit: int | None, what: str = "brief", separator: str = ",") -> Page:
        """Return matching jobs as one piece of JSON, newest first.

        Args:
            where: which.
            limit: how many at most.
            what: ``brief``, ``full``, or ``keyed`` for ``"<id>":<full>``.
            separator: what stands between two.
        """
        sql, values = where.where()
        column, table = _SHAPES[what]
        query = (
            "SELECT CAST(group_concat(json, ?) AS BLOB), count(*), min(id) FROM "  # noqa: S608 - values are bound
            f"(SELECT {column} AS json, id FROM {table} WHERE {sql} ORDER BY id DESC LIMIT ?)"
        )
        short = where.indexed and limit is not None and limit <= (_BRIEF if what == "brief" else _FULL)
        read = self._at_once if short else self._fetch
        position = self.position  # the list may know of more than that, and of nothing less
        now = () if what == "brief" else (time.time(),)
        [(json, count, last)] = await read(query, (separator, *now, *values, -1 if limit is None else limit))
        more = False
        if limit and count == limit:
            sql, values = msgspec.structs.replace(where, before_id=last).where()
            more = bool(await read(f"SELECT 1 FROM jobs WHERE {sql} LIMIT 1", values))  # noqa: S608
        return Page(json or b"", last if more else None, position)

    async def pieces(self, where: Filter, limit: int | None, what: str, separator: str = ",") -> AsyncIterator[bytes]:
        """Yield what :meth:`page` returns, in pieces: memory does not grow with the number of jobs."""
        left = limit
        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            page = await self.page(where, count, what, separator)
            if page.json:
                yield page.json
            if page.last is None:
                return
            where = msgspec.structs.replace(where, before_id=page.last)
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
            query, values = search.select(f"CAST({_FULL_JSON} AS BLOB)")
            rows = await self._fetch(f"{query} LIMIT ? OFFSET ?", (time.time(), *values, count, start))
            if rows:
                yield [row[0] for row in rows]
            if len(rows) < count:
                return
            start += count
            left = None if left is None else left - count

    async def count(self, text: str = "") -> int:
        """Return how many jobs match a search's text, or with none how many there are.

        To count what matches takes as long as there are matches: it is done once for each text, until something is
        written, however many callers wait for it.
        """
        now = self.revision
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

    async def table(self, search: Search, where: Filter) -> list[bytes]:
        """Return the JSON of the jobs of one page of a table: in the search's window, and let through by a filter."""
        query, values = search.within(where, f"CAST({_FULL_JSON} AS BLOB)")
        return [row[0] for row in await self._fetch(query, (time.time(), *values))]

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

    async def queue_counts(self) -> dict[str, dict[str, int]]:
        """Return how many jobs each queue has in each state; inactive ones, which may be very many, left out."""
        marks = ", ".join("?" * len(_ACTIVE))
        query = f"SELECT queue, state, count(*) FROM jobs WHERE state IN ({marks}) GROUP BY queue, state"  # noqa: S608
        counts: dict[str, dict[str, int]] = {}
        for queue, state, count in await self._fetch(query, _ACTIVE):
            counts.setdefault(queue, {})[state] = count
        return counts

    # ----------------------------------------------------------------------------------------- for the feed

    async def progress(self) -> dict[int, int]:
        """Return the number of events that each job holds: what need not be read again."""
        return dict(await self._fetch("SELECT id, nevents FROM jobs"))

    async def user_counts(self) -> dict[tuple[str, str], int]:
        """Return how many jobs each user has in each state; who submitted it by way of this server is its user."""
        query = "SELECT iif(submitter = '', username, submitter), lower(state), count(*) FROM jobs GROUP BY 1, 2"
        return {(user, state): count for user, state, count in await self._fetch(query)}

    async def totals(self) -> list[tuple[str, str, str]]:
        """Return what has happened, as it was written."""
        return await self._fetch("SELECT name, labels, value FROM totals")

    async def kinds(self) -> list[tuple[str, str, bool, int, int, int]]:
        """Return how many jobs there are: queue, state, and in SCHED whether held, else nodes and cores wanted."""
        return await self._fetch(_KINDS)

    async def active(self) -> list[int]:
        """Return the ids of the jobs that are not inactive."""
        return [row[0] for row in await self._fetch("SELECT id FROM jobs WHERE state != 'INACTIVE'")]


def _signed(fluid_: int) -> int:
    """SQLite's integers end at 2^63; no real FLUID is that large, so such an id matches nothing."""
    return fluid_ if fluid_ < 2**63 else -1
