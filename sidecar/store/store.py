"""The SQLite side of the store: schema, one writer thread, one reader thread.

Neither ever runs on the event loop. The job's JSON is kept ready-made: a list is a concatenation of bytes.
A job in RUN has no ``runtime`` in its stored JSON; it is added when it is read, since it grows.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from sidecar.model import STATES
from sidecar.store.query import Filter, Search, Short

T = TypeVar("T")

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY, t_submit REAL NOT NULL, t_run REAL, state TEXT NOT NULL, result TEXT NOT NULL,
  userid INTEGER NOT NULL, username TEXT NOT NULL, queue TEXT NOT NULL, name TEXT NOT NULL,
  nnodes INTEGER, ntasks INTEGER, runtime REAL, nevents INTEGER NOT NULL, json BLOB NOT NULL);
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX jobs_result ON jobs (result, id);
CREATE INDEX jobs_username ON jobs (username, id);
CREATE INDEX jobs_name ON jobs (name, id);
CREATE INDEX jobs_t_submit ON jobs (t_submit, id);
CREATE VIRTUAL TABLE jobs_text USING fts5 (text, tokenize = 'trigram');
"""
# Only what can change is updated: the indexes over the rest are left alone.
_UPSERT = """
INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
  t_run = excluded.t_run, state = excluded.state, result = excluded.result, queue = excluded.queue,
  nnodes = excluded.nnodes, ntasks = excluded.ntasks, runtime = excluded.runtime, nevents = excluded.nevents,
  json = excluded.json
"""
_CHUNK = 500
_ACTIVE = tuple(state for state in STATES if state != "INACTIVE")  # by name: only so does the index over states help


class StoreError(Exception):
    """The store cannot be used; the text says why and what to do."""


class Row(NamedTuple):
    """A job as it is written. ``text`` is what a search looks through, None when that has not changed."""

    id: int
    t_submit: float
    t_run: float | None
    state: str
    result: str
    userid: int
    username: str
    queue: str
    name: str
    nnodes: int | None
    ntasks: int | None
    runtime: float | None
    nevents: int
    json: bytes
    text: str | None


class Store:
    """All jobs, in one SQLite file. Methods are coroutines; the SQL runs in the store's own threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._reader = ThreadPoolExecutor(1, "store-reader")
        self._readable = asyncio.Event()
        self._write: sqlite3.Connection
        self._read: sqlite3.Connection

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: it is no store of this version, or cannot be read or written.
        """
        try:
            self._write = await self._run(self._writer, lambda: _connect(self.path))
            self._read = await self._run(self._reader, lambda: _open(self.path))
            self._readable.set()
        except sqlite3.Error as exc:
            raise StoreError(f"The store {self.path} cannot be opened: {exc}. Name another with --store.") from exc

    async def close(self) -> None:
        """Finish writing and close the file."""
        await self._run(self._reader, lambda: self._read.close())
        await self._run(self._writer, lambda: self._write.close())
        self._reader.shutdown()
        self._writer.shutdown()

    # ------------------------------------------------------------------------------------------------ writing

    async def begin_instance(self, identity: str) -> Path | None:
        """Make this the store of the instance ``identity``.

        A store that holds another instance's jobs (job ids start anew in every instance) is set aside, complete,
        under a name of its own.

        Returns:
            Where the other instance's store is now; None when nothing had to move.
        """
        known = await self._run(self._writer, self._identity)
        aside = await self._set_aside(known) if known not in (None, identity) else None
        await self._run(self._writer, lambda: self._identify(identity))
        return aside

    def _identity(self) -> str | None:
        row = self._write.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()
        return row[0] if row else None

    def _identify(self, identity: str) -> None:
        with self._write as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('instance', ?)", (identity,))

    async def _set_aside(self, known: str) -> Path:
        """Move the file away and begin a new one; reads wait meanwhile."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = self.path.with_name(f"{self.path.stem}.{stamp}.{known}{self.path.suffix}")

        def move() -> None:
            self._write.close()  # the last to close folds the write-ahead log into the file, which can then move alone
            self.path.rename(aside)
            self._write = _connect(self.path)

        self._readable.clear()
        try:
            await self._run(self._reader, lambda: self._read.close())
            await self._run(self._writer, move)
            self._read = await self._run(self._reader, lambda: _open(self.path))
        finally:
            self._readable.set()
        return aside

    async def write(self, rows: Sequence[Row], deleted: Sequence[int] = ()) -> None:
        """Insert or replace jobs, and delete some, in one transaction.

        Raises:
            StoreError: nothing was written; the disk is full, perhaps.
        """
        try:
            await self._run(self._writer, lambda: self._apply(rows, deleted))
        except sqlite3.Error as exc:
            raise StoreError(f"The store {self.path} cannot be written: {exc}.") from exc

    def _apply(self, rows: Sequence[Row], deleted: Sequence[int]) -> None:
        with self._write as db:
            db.executemany(_UPSERT, [row[:-1] for row in rows])
            texts = [(row.id, row.text) for row in rows if row.text is not None]
            db.executemany("INSERT OR REPLACE INTO jobs_text (rowid, text) VALUES (?, ?)", texts)
            gone = [(fluid,) for fluid in deleted]
            db.executemany("DELETE FROM jobs WHERE id = ?", gone)
            db.executemany("DELETE FROM jobs_text WHERE rowid = ?", gone)

    # ------------------------------------------------------------------------------------------------ reading

    async def job(self, fluid: int) -> bytes | None:
        """Return the JSON of one job, None when there is no such job."""
        rows = await self._fetch("SELECT state, t_run, json FROM jobs WHERE id = ?", (_signed(fluid),))
        return _complete(*rows[0]) if rows else None

    async def state(self, fluid: int) -> str | None:
        """Return the state of one job, None when there is no such job."""
        rows = await self._fetch("SELECT state FROM jobs WHERE id = ?", (_signed(fluid),))
        return rows[0][0] if rows else None

    async def list_short(self, where: Filter, limit: int | None) -> list[Short]:
        """Return id, state, result and name of matching jobs, newest first."""
        sql, values = where.where()
        query = f"SELECT id, state, result, name FROM jobs WHERE {sql} ORDER BY id DESC LIMIT ?"  # noqa: S608
        return await self._fetch(query, (*values, _limit(limit)))

    async def list_full(self, where: Filter, limit: int | None) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Yield (id, JSON) of matching jobs, newest first, in chunks: memory does not grow with the number."""
        left = limit
        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            sql, values = where.where()
            query = f"SELECT id, state, t_run, json FROM jobs WHERE {sql} ORDER BY id DESC LIMIT ?"  # noqa: S608
            rows = await self._fetch(query, (*values, count))
            if rows:
                yield [(row[0], _complete(*row[1:])) for row in rows]
            if len(rows) < count:
                return
            where = _after(where, rows[-1][0])
            left = None if left is None else left - count

    async def search(self, search: Search) -> AsyncIterator[list[bytes]]:
        """Yield the JSON of the jobs in the search's window, in chunks."""
        where, values = search.where()
        start, left = search.start, search.length
        while left is None or left > 0:
            count = _CHUNK if left is None else min(left, _CHUNK)
            query = (
                f"SELECT state, t_run, json FROM jobs WHERE {where} "  # noqa: S608 - values are bound
                f"ORDER BY {search.order_by()} LIMIT ? OFFSET ?"
            )
            rows = await self._fetch(query, (*values, count, start))
            if rows:
                yield [_complete(*row) for row in rows]
            if len(rows) < count:
                return
            start += count
            left = None if left is None else left - count

    async def count(self, search: Search | None = None) -> int:
        """Return how many jobs match a search's text, or how many there are."""
        where, values = search.where() if search else ("1", [])
        rows = await self._fetch(f"SELECT count(*) FROM jobs WHERE {where}", values)  # noqa: S608
        return int(rows[0][0])

    async def progress(self) -> dict[int, int]:
        """Return the number of events that each job holds: what need not be read again."""
        return dict(await self._fetch("SELECT id, nevents FROM jobs", ()))

    async def queue_counts(self) -> dict[str, dict[str, int]]:
        """Return how many jobs each queue has in each state; inactive ones, which may be very many, left out."""
        marks = ", ".join("?" * len(_ACTIVE))
        query = f"SELECT queue, state, count(*) FROM jobs WHERE state IN ({marks}) GROUP BY queue, state"  # noqa: S608
        counts: dict[str, dict[str, int]] = {}
        for queue, state, count in await self._fetch(query, _ACTIVE):
            counts.setdefault(queue, {})[state] = count
        return counts

    async def active(self) -> list[int]:
        """Return the ids of the jobs that are not inactive."""
        return [row[0] for row in await self._fetch("SELECT id FROM jobs WHERE state != 'INACTIVE'", ())]

    async def _fetch(self, sql: str, values: Sequence[Any]) -> list[Any]:
        await self._readable.wait()
        return await self._run(self._reader, lambda: self._read.execute(sql, values).fetchall())

    async def _run(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _connect(path: Path) -> sqlite3.Connection:
    """Open for writing; make the schema in a new file, refuse another version's."""
    db = _open(path)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        with closing(db.cursor()) as cursor:
            cursor.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        db.close()
        raise StoreError(f"The store {path} is of version {version}, this server needs {SCHEMA_VERSION}.")
    return db


def _complete(state: str, t_run: float | None, json: bytes) -> bytes:
    """Add the runtime so far to a running job."""
    if state != "RUN" or t_run is None:
        return json
    return json[:-1] + b',"runtime":%.6f}' % max(0.0, time.time() - t_run)


def _signed(fluid: int) -> int:
    """SQLite's integers end at 2^63; no real FLUID is that large, so such an id matches nothing."""
    return fluid if fluid < 2**63 else -1


def _limit(limit: int | None) -> int:
    return -1 if limit is None else limit


def _after(where: Filter, fluid: int) -> Filter:
    return msgspec.structs.replace(where, before_id=fluid)
