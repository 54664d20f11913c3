"""Every question that the store answers."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sidecar.domain import restored
from sidecar.domain.errors import StoreError
from sidecar.domain.model import STATES
from sidecar.store import eventlog
from sidecar.store.damage import Damage
from sidecar.store.query import Filter, Search
from sidecar.store.rows import LoggedEvents, Page, StoredEvent
from sidecar.store.writer import Writer

T = TypeVar("T")

_ACTIVE = tuple(state for state in STATES if state != "INACTIVE")  # by name: only so does the index over states help
_CHUNK = 500
_LARGEST_PAGE = 1024 * 1024  # bytes; the job that passes it is the last one of its page
_INT64 = 2**63 - 1
_PIECE = 256 * 1024  # the same of a piece of a long list: each reader that does not read holds one
_ROWS = 1000  # of one eventlog that are read at once
_COUNTS = 1000  # texts whose counts are kept
_BRIEF, _FULL = 500, 200  # rows of a page that is read at once
_HOT, _HOT_SIZE = 1024, 8 * 1024 * 1024
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
_KINDS = """
SELECT queue, state, 0, 0, 0, count(*) FROM jobs WHERE state != 'SCHED' GROUP BY queue, state
UNION ALL
SELECT queue, state, urgency = 0, iif(urgency = 0, 0, nodes), iif(urgency = 0, 0, cores), count(*) FROM (
  SELECT queue, state, json_extract(json, '$.urgency') AS urgency, CAST(json_extract(json, '$.nnodes') AS INTEGER) AS
    nodes, CAST(json_extract(json, '$.ncores') AS INTEGER) AS cores
  FROM (SELECT queue, state, iif(json_valid(json), json, '{}') AS json FROM jobs JOIN documents ON job = id
    WHERE state = 'SCHED'))
GROUP BY 1, 2, 3, 4, 5
"""


class Store(Writer):
    """All jobs and all events, in one SQLite file. Methods are coroutines; none blocks the event loop for long."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._counts: dict[str, asyncio.Future[list[Any]]] = {}
        self._counted = -1
        self._damage = Damage()

    # ----------------------------------------------------------------------------------------------- one job

    async def job(self, fluid_: int) -> bytes | None:
        """Return the JSON of one job, None when there is no such job."""
        found = self._hot.get(fluid_)
        if found is None:
            revision = self.revision
            query = "SELECT running, CAST(json AS BLOB) FROM documents WHERE job = ?"
            rows = await self._at_once(query, (_signed(fluid_),))
            if not rows:
                return None
            running, json = rows[0]
            if not restored.is_whole(json):
                running, json = None, await self._read(functools.partial(self._damage.sound, json=json, job=fluid_))
            found = running if isinstance(running, float) else None, json
            if revision == self.revision:  # else it may be out of date: it was read in a thread
                self._keep_hot(fluid_, found)
        running, json = found
        # A job that runs is stored without its runtime so far.
        return json if running is None else json[:-1] + b',"runtime":%.6f}' % max(0.0, time.time() - running)

    def _keep_hot(self, fluid_: int, found: tuple[float | None, bytes]) -> None:
        """Keep a document that was read, and no more than some megabytes of them."""
        size = len(found[1])
        if len(self._hot) >= _HOT or self._hot_size + size > _HOT_SIZE:
            self._hot.clear()
            self._hot_size = 0
        if size <= _HOT_SIZE:
            self._hot[fluid_] = found
            self._hot_size += size

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
        rows = await self._at_once("SELECT CAST(json AS BLOB) FROM jobspecs WHERE job = ?", (_signed(fluid_),))
        if not rows:
            return None
        if not restored.is_whole(json := rows[0][0]):
            self._damage.note(fluid_, "jobspec", "it is not JSON")
            return b"{}"
        return bytes(json)

    async def eventlog(self, fluid_: int) -> AsyncIterator[LoggedEvents]:
        """Yield a job's eventlog, row by row: it may be of any length."""
        after = 0
        while rows := await self.told(after, _INT64, _ROWS, _signed(fluid_)):
            for each in rows:
                yield each
            after = rows[-1].position

    async def ends(self, fluid_: int, most: int) -> tuple[list[StoredEvent], int, list[StoredEvent]]:
        """Return the first and the last entries of a job's eventlog, and how many there are between them.

        Args:
            fluid_: the job.
            most: so many of each; of twice as many at most all are among the first.
        """
        return await self._read(functools.partial(eventlog.ends, damage=self._damage, job=_signed(fluid_), most=most))

    async def exceptions(self, fluid_: int) -> list[StoredEvent]:
        """Return the first exception of each severity in a job's eventlog: the worst of all is among them."""
        return await self._read(functools.partial(eventlog.exceptions, damage=self._damage, job=fluid_))

    async def key(self, key: str) -> tuple[int, str] | None:
        """Return the job that was submitted with an idempotency key, and the digest of its request."""
        rows = await self._at_once("SELECT job, digest FROM keys WHERE key = ?", (key,))
        return rows[0] if rows else None

    async def record(self, fluid_: int) -> tuple[bytes, bytes, int] | None:
        """Return what is needed to go on folding a job, beside its exceptions: job, jobspec, number of events."""
        rows = await self._at_once(
            "SELECT CAST(documents.json AS BLOB), nevents FROM jobs JOIN documents ON documents.job = id WHERE id = ?",
            (fluid_,),
        )
        if not rows:
            return None
        json, nevents = rows[0]
        if not restored.is_whole(json):
            json = await self._read(functools.partial(self._damage.sound, json=json, job=fluid_))
        if not isinstance(nevents, int):
            [[nevents]] = await self._fetch("SELECT coalesce(sum(count), 0) FROM events WHERE job = ?", (fluid_,))
        return json, await self.jobspec(fluid_) or b"{}", nevents

    # ------------------------------------------------------------------------------------------------- lists

    async def page(self, where: Filter, limit: int | None, what: str = "brief", separator: str = ",") -> Page:
        """Return matching jobs as one piece of JSON, newest first.

        A page ends early where it becomes large. Then ``last`` is set, and ``number`` is smaller than the limit.

        Args:
            where: which.
            limit: how many at most.
            what: ``brief``, ``full``, or ``keyed`` for ``"<id>":<full>``.
            separator: what stands between two.
        """
        return await self._page(where, limit, what, separator, export=False)

    async def _page(self, where: Filter, limit: int | None, what: str, separator: str, *, export: bool) -> Page:
        sql, values = where.where()
        column, table = _SHAPES[what]
        most = -1 if limit is None else min(limit + 1, _INT64) if limit else 0  # one more tells whether there are more
        query = f"SELECT CAST({column} AS BLOB), id FROM {table} WHERE {sql} ORDER BY id DESC LIMIT ?"  # noqa: S608 - values are bound
        now = () if what == "brief" else (time.time(),)
        largest = _PIECE if export else _LARGEST_PAGE
        position = self.position  # the list may know of more than that, and of nothing less

        def read(db: sqlite3.Connection) -> tuple[list[bytes], int | None]:
            found: list[bytes] = []
            size, last = 0, None
            for json, id_ in db.execute(query, (*now, *values, most)):
                if len(found) == limit or size > largest:
                    return found, last
                found.append(json := self._damage.sound(db, json, id_, what))
                size, last = size + len(json), id_
            return found, None

        short = where.indexed and limit is not None and limit <= (_BRIEF if what == "brief" else _FULL)
        rows, last = await (self._quickly(read) if short else self._read(read, export=export))
        return Page(separator.encode().join(rows), last, position, len(rows))

    async def last_of(self, where: Filter, limit: int) -> int | None:
        """Return the id of the last job of a list that a limit cuts; None when it does not."""
        if not limit:
            return None
        sql, values = where.where()
        query = f"SELECT id FROM jobs WHERE {sql} ORDER BY id DESC LIMIT 2 OFFSET ?"  # noqa: S608 - values are bound
        rows = await self._fetch(query, (*values, limit - 1))
        return rows[0][0] if len(rows) == 2 else None

    async def pieces(self, where: Filter, limit: int | None, what: str, separator: str = ",") -> AsyncIterator[bytes]:
        """Yield what :meth:`page` returns, in pieces: memory does not grow with the number of jobs, or their size."""
        left = limit
        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            page = await self._page(where, count, what, separator, export=True)
            if page.json:
                yield page.json
            if page.last is None:
                return
            where = msgspec.structs.replace(where, before_id=page.last)
            left = None if left is None else left - page.number

    async def ids(self, where: Filter) -> list[int]:
        """Return the ids of all matching jobs, newest first."""
        sql, values = where.where()
        return [row[0] for row in await self._fetch(f"SELECT id FROM jobs WHERE {sql} ORDER BY id DESC", values)]  # noqa: S608

    async def search(self, search: Search) -> AsyncIterator[bytes]:
        """Yield the JSON of the jobs in the search's window, in pieces, with commas between two jobs of one piece."""
        start, left = search.start, search.length
        query, values = search.select(f"CAST({_FULL_JSON} AS BLOB), job")

        def read(db: sqlite3.Connection, count: int, start: int) -> tuple[bytes, int]:
            found: list[bytes] = []
            size = 0
            for json, id_ in db.execute(f"{query} LIMIT ? OFFSET ?", (time.time(), *values, count, start)):
                found.append(json := self._damage.sound(db, json, id_))
                size += len(json)
                if size > _PIECE:
                    break
            return b",".join(found), len(found)

        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            export = left is None or left > _CHUNK
            piece, number = await self._read(functools.partial(read, count=count, start=start), export=export)
            if not number:
                return
            yield piece
            start += number
            left = None if left is None else left - number

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
        except StoreError:
            self._counts.clear()
            raise

    async def table(self, search: Search, where: Filter, read: Callable[[bytes], T]) -> list[T]:
        """Return the jobs of one page of a table: in the search's window, and let through by a filter.

        Args:
            search: the window, and its order.
            where: the filter.
            read: called beside the event loop with the JSON of each job, which may be large; keeps what is shown of it.
        """
        query, values = search.within(where, f"CAST({_FULL_JSON} AS BLOB), job")

        def rows(db: sqlite3.Connection) -> list[T]:
            return [read(self._damage.sound(db, *row)) for row in db.execute(query, (time.time(), *values))]

        return await self._read(rows)

    # ------------------------------------------------------------------------------------------------ events

    async def told(self, after: int, upto: int, limit: int, job: int | None = None) -> list[LoggedEvents]:
        """Return what was told behind a position and up to another, of all jobs or of one, in their order.

        Where that is large it is the first part of it: it ends with the row that passes the bound.
        """
        wanted = eventlog.Wanted(after, upto, limit, job)
        return await self._read(functools.partial(eventlog.told, damage=self._damage, wanted=wanted))

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
        found = dict(await self._fetch("SELECT id, nevents FROM jobs"))
        return {job: number if isinstance(number, int) else 0 for job, number in found.items()}

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

    async def instance(self) -> str:
        """Return the identity of the instance whose jobs these are; empty in a new file."""
        rows = await self._fetch("SELECT value FROM meta WHERE key = 'instance'")
        return str(rows[0][0]) if rows else ""

    async def active(self) -> list[int]:
        """Return the ids of the jobs that are not inactive."""
        return [row[0] for row in await self._fetch("SELECT id FROM jobs WHERE state != 'INACTIVE'")]


def _signed(fluid_: int) -> int:
    """SQLite's integers end at 2^63; no real FLUID is that large, so such an id matches nothing."""
    return fluid_ if fluid_ < 2**63 else -1
