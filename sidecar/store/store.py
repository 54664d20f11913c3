"""The SQLite side of the store: one thread that writes, two that read, and short reads at once.

A read that an index answers within some tens of microseconds is done where it is asked for: to hand it to a thread
and back costs ten times as much. Whatever may take longer (searches, counts, exports) never runs on the event loop.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sidecar.store.rows import Row, Told
from sidecar.store.schema import StoreError, connect, open_file

T = TypeVar("T")

_READERS = 2
# Only what can change is updated: the indexes over the rest are left alone.
_UPDATE = """ON CONFLICT (id) DO UPDATE SET
  t_run = excluded.t_run, state = excluded.state, result = excluded.result, queue = excluded.queue,
  nnodes = excluded.nnodes, ntasks = excluded.ntasks, runtime = excluded.runtime, nevents = excluded.nevents,
  brief = excluded.brief
"""
_COLUMNS = 15
_TOGETHER = 64  # rows in one statement
_DELETE = ("jobs WHERE id", "documents WHERE job", "jobs_text WHERE rowid", "jobspecs WHERE job", "keys WHERE job")


class Connections:
    """The file's connections, and the threads that use them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = ""
        """The name of this file: positions of another one mean nothing here."""
        self.position = 0
        """Position of the last event that was written."""
        self.revision = 0
        """Changes with every write: who has read at this revision knows what is there."""
        self._hot: dict[int, tuple[float | None, bytes]] = {}  # documents that were read last
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._readers = ThreadPoolExecutor(_READERS, "store-reader")
        self._readable = asyncio.Event()
        self._write: sqlite3.Connection
        self._quick: sqlite3.Connection
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()

    @property
    def size(self) -> int:
        """Size of the file and of what is written ahead of it (bytes)."""
        found = 0
        for suffix in ("", "-wal", "-shm"):
            try:
                found += os.stat(f"{self.path}{suffix}").st_size
            except FileNotFoundError:  # a new one is begun just now
                continue
        return found

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: it is no store of this version, or cannot be read or written.
        """
        try:
            self._write = await self._run(self._writer, lambda: connect(self.path))
            await self._run(self._readers, self._open_readers)
            await self._run(self._writer, self._look)
            self._readable.set()
        except sqlite3.Error as exc:
            raise StoreError(f"The store {self.path} cannot be opened: {exc}. Name another with --store.") from exc

    async def close(self) -> None:
        """Finish writing and close the file."""
        await self._run(self._readers, self._close_readers)
        await self._run(self._writer, lambda: self._write.close())
        self._readers.shutdown()
        self._writer.shutdown()

    def _open_readers(self) -> None:
        self._quick = open_file(self.path)
        for _ in range(_READERS):
            self._idle.put(open_file(self.path))

    def _close_readers(self) -> None:
        self._quick.close()
        for _ in range(_READERS):
            self._idle.get().close()

    def _look(self) -> None:
        self.id = self._write.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0]
        self.position = self._write.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]

    # ------------------------------------------------------------------------------------------------ reading

    async def _at_once(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Read on the event loop: only for what an index answers with few rows."""
        if not self._readable.is_set():
            await self._readable.wait()
        return self._quick.execute(sql, values).fetchall()

    async def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Read in a thread."""

        def work() -> list[Any]:
            db = self._idle.get()
            try:
                return db.execute(sql, values).fetchall()
            finally:
                self._idle.put(db)

        await self._readable.wait()
        return await self._run(self._readers, work)

    async def _run(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)


class Writer(Connections):
    """What the feed alone does."""

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
            self._write = connect(self.path)
            self._look()
            self._hot.clear()
            self.revision += 1

        self._readable.clear()
        try:
            await self._run(self._readers, self._close_readers)
            await self._run(self._writer, move)
            await self._run(self._readers, self._open_readers)
        finally:
            self._readable.set()
        return aside

    async def probe(self) -> None:
        """Find out whether the file can be written.

        Raises:
            StoreError: it cannot, just now.
        """

        def work() -> None:
            with self._write as db:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('probed', strftime('%s', 'now'))")

        try:
            await self._run(self._writer, work)
        except sqlite3.Error as exc:
            raise StoreError(f"The store {self.path} cannot be written: {exc}.") from exc

    async def write(
        self,
        rows: Sequence[Row],
        told: Sequence[Told] = (),
        deleted: Sequence[int] = (),
        totals: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Insert or replace jobs and totals, append events, and delete some jobs, in one transaction.

        Raises:
            StoreError: nothing was written; the disk is full, perhaps.
        """
        try:
            await self._run(self._writer, lambda: self._apply(rows, told, deleted, totals))
        except sqlite3.Error as exc:
            raise StoreError(f"The store {self.path} cannot be written: {exc}.") from exc
        self.revision += 1
        if told:
            self.position = told[-1].position
        for row in rows:
            self._hot.pop(row.id, None)
        for fluid in deleted:
            self._hot.pop(fluid, None)

    def _apply(
        self,
        rows: Sequence[Row],
        told: Sequence[Told],
        deleted: Sequence[int],
        totals: Sequence[tuple[str, str, str]],
    ) -> None:
        texts = [(row.id, row.text) for row in rows if row.text is not None]
        specs = [(row.id, row.jobspec) for row in rows if row.jobspec is not None]
        documents = [(row.id, row.t_run if row.state == "RUN" else None, row.json) for row in rows]
        keys = [(row.key[0], row.id, row.key[1]) for row in rows if row.key]
        with self._write as db:
            _insert(db, "INSERT INTO jobs", [row[:_COLUMNS] for row in rows], _UPDATE)
            _insert(db, "INSERT OR REPLACE INTO documents", documents)
            _insert(db, "INSERT OR REPLACE INTO jobs_text (rowid, text)", texts)
            _insert(db, "INSERT OR REPLACE INTO jobspecs", specs)
            # The first job of a key is the one that counts; only somebody else than this server can have made two.
            _insert(db, "INSERT OR IGNORE INTO keys", keys)
            _insert(db, "INSERT INTO events", [_told(each) for each in told])
            _insert(db, "INSERT OR REPLACE INTO totals", totals)
            for sql in _DELETE:
                db.executemany(f"DELETE FROM {sql} = ?", [(fluid,) for fluid in deleted])  # noqa: S608 - fixed words


def _insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]], otherwise: str = "") -> None:
    """Insert rows, many in each statement.

    The interpreter's lock is let go and asked for anew around every statement that runs: beside threads that compute,
    each time costs milliseconds, and a row a statement made writing four times as slow as all else together.
    """
    begin, together = 0, _TOGETHER
    while begin < len(rows):
        while together > len(rows) - begin:
            together //= 2  # few lengths, so that every statement is prepared once
        values = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * together)
        flat = [value for row in rows[begin : begin + together] for value in row]
        db.execute(f"{into} VALUES {values} {otherwise}", flat)
        begin += together


def _told(told: Told) -> tuple[int, int, int, bytes]:
    return told.position, told.job, told.count, told.json
