"""The store's connections, and the threads that use them: one that writes, two that read, one for exports.

A read that an index answers within some tens of microseconds is done where it is asked for: to hand it to a thread
and back costs ten times as much. Whatever may take longer (searches, counts) never runs on the event loop, and what
takes longest (exports) has a thread of its own, so that pages do not wait for it. A disk that has stopped to answer
is noticed by the writer: from then on nothing is read on the loop, and every read and the close have a bound.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from sidecar.domain.errors import StoreError
from sidecar.runtime.threads import Workers
from sidecar.store.lock import StoreLock
from sidecar.store.schema import check, connect, inspect, open_file

T = TypeVar("T")
log = structlog.get_logger("store")

_READERS = 2
_AT_ONCE = 0.0  # how long the event loop waits for a lock of another program (seconds)
_SLOW = 1.0  # a write that takes longer (seconds) may mean that the disk hangs
_READ_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 2.5  # the bound of this part of a stop is 3 s
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_MEND = "Move {name}, {name}-wal and {name}-shm away, or rebuild the file with sqlite3's .recover"
_REPLACED = (
    "it was removed or replaced while it was open. What is written now is lost when the server ends: restart it."
)


class Connections:
    """The file's connections, and the threads that use them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = ""
        """The name of this file: positions of another one mean nothing here."""
        self.position = 0
        """Position of the last event that was written."""
        self.revision = 0
        """Changes with every write: what was read at this revision is still so."""
        self.size = 0
        """Size of the file and of what is written ahead of it, as of the last write or probe (bytes)."""
        self.damage = ""
        """What a read has found damaged; only another file mends that."""
        self.lock = StoreLock(path)
        self._writer = Workers(1, "store-writer")
        self._readers = Workers(_READERS, "store-reader")
        self._exports = Workers(1, "store-export")
        self._readable = asyncio.Event()
        self._write: sqlite3.Connection | None = None
        self._quick: sqlite3.Connection
        self._reading: list[sqlite3.Connection] = []
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()

    async def open(self) -> None:
        """Open the file, or make it, for this server alone.

        Raises:
            StoreError: it is no store of this version, is damaged, cannot be read or written, or another server has it.
        """
        try:
            await self._writer.run(self._open)
        except (sqlite3.Error, OSError) as exc:
            damaged = isinstance(exc, sqlite3.Error) and not isinstance(exc, sqlite3.OperationalError)
            mend = f"{_MEND.format(name=self.path.name)}, or name" if damaged else "Name"
            said = f"The store {self.path} cannot be opened: {_said(exc)}. {mend} another with --store."
            raise StoreError(said) from exc
        self._readable.set()

    def _open(self) -> None:
        inspect(self.path)
        self.lock.take()
        try:
            self._writing()
            self._look()
            check(self.path)
            self._open_readers()
        except BaseException:
            self._close_all()
            self.lock.release()
            raise

    async def close(self) -> None:
        """Close the file when what was begun is written, within a bound: a disk may hang."""
        for db in self._reading:
            db.interrupt()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._exports.run(lambda: None)
                await self._readers.run(self._close_readers)
                await self._writer.run(self._close_all)
                self.lock.release()
        except TimeoutError:  # the lock stays until the process has ended: what hangs may still write
            log.error("the store does not answer, it is left as it is", path=str(self.path), seconds=_CLOSE_TIMEOUT)
        except sqlite3.Error as exc:
            log.error("the store cannot be closed in order", path=str(self.path), reason=str(exc))
        for workers in (self._readers, self._exports, self._writer):
            workers.close()

    def _writing(self) -> sqlite3.Connection:
        """Return the connection that writes; in the writer's thread."""
        if self._write is None:
            self.lock.take_file()
            self._write = connect(self.path)
        return self._write

    def _open_readers(self) -> None:
        self._quick = open_file(self.path, busy_timeout=_AT_ONCE)
        self._reading = [open_file(self.path) for _ in range(_READERS + 1)]
        for db in self._reading:
            self._idle.put(db)

    def _close_readers(self) -> None:
        """Close what reads; where a thread is in the middle of a read, when it has ended."""
        for _ in self._reading:
            self._idle.get().close()
        if self._reading:
            self._quick.close()
        self._reading = []

    def _close_all(self) -> None:
        self._close_readers()
        if self._write is not None:
            self._write.close()
            self._write = None

    def _look(self) -> None:
        db = self._writing()
        self.id = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0]
        self.position = db.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]
        self._measure()

    def _measure(self) -> None:
        found = 0
        for suffix in ("", "-wal", "-shm"):
            try:
                found += os.stat(f"{self.path}{suffix}").st_size
            except OSError:  # not made yet, removed, or no longer to be reached: what was written is written
                continue
        self.size = found

    # ------------------------------------------------------------------------------------------------ writing

    @property
    def stuck(self) -> float:
        """How long the writer has been at one call (seconds)."""
        return self._writer.stuck

    async def probe(self) -> None:
        """Find out whether the file can be written, and is still where its path says.

        Raises:
            StoreError: not so, just now.
        """

        def work() -> None:
            with self._writing() as db:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('probed', strftime('%s', 'now'))")
            self._measure()

        await self._change(work)
        if self.damage:
            raise StoreError(self.damage)
        try:
            replaced = await self._writer.run(lambda: self.lock.replaced)
        except OSError as exc:
            raise StoreError(f"The store {self.path} cannot be looked at: {_said(exc)}.") from None
        if replaced:
            raise StoreError(f"The store {self.path} {_REPLACED}")

    async def _change(self, work: Callable[[], T]) -> T:
        """Do something in the writer's thread.

        Raises:
            StoreError: nothing was written; the disk is full, perhaps.
        """
        try:
            return await self._writer.run(work)
        except sqlite3.OperationalError as exc:
            raise StoreError(f"The store {self.path} cannot be written: {exc}.") from exc
        except (sqlite3.DatabaseError, OSError) as exc:
            raise StoreError(f"The store {self.path} cannot be written: {_said(exc)}. {_mend(self.path)}") from exc

    # ------------------------------------------------------------------------------------------------ reading

    async def _at_once(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Read on the event loop: only for what an index answers with few rows."""
        return await self._quickly(lambda db: db.execute(sql, values).fetchall())

    async def _quickly(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Read on the event loop, or in a thread while the disk may hang or another program has locked the file."""
        if self._readable.is_set() and self._writer.stuck < _SLOW:
            try:
                return read(self._quick)
            except sqlite3.Error as exc:
                if exc.sqlite_errorcode not in _BUSY:
                    raise self._unreadable(exc) from exc
        return await self._read(read)

    async def _fetch(self, sql: str, values: Sequence[Any] = (), *, export: bool = False) -> list[Any]:
        """Read in a thread; an ``export`` in one of its own."""
        return await self._read(lambda db: db.execute(sql, values).fetchall(), export=export)

    async def _read(self, read: Callable[[sqlite3.Connection], T], *, export: bool = False) -> T:
        """Read in a thread what takes more than one statement.

        Raises:
            StoreError: the file cannot be read, or the disk does not answer.
        """

        def work() -> T:
            db = self._idle.get()
            try:
                return read(db)
            finally:
                self._idle.put(db)

        try:
            async with asyncio.timeout(_READ_TIMEOUT):
                await self._readable.wait()
                return await (self._exports if export else self._readers).run(work)
        except TimeoutError:
            raise StoreError(f"The store {self.path} has not answered for {_READ_TIMEOUT:g} s.") from None
        except sqlite3.Error as exc:
            raise self._unreadable(exc) from exc

    def _unreadable(self, exc: sqlite3.Error) -> StoreError:
        error = StoreError(f"The store {self.path} cannot be read: {exc}.")
        if not isinstance(exc, sqlite3.OperationalError | sqlite3.ProgrammingError):
            error = StoreError(f"The store {self.path} cannot be read: {exc}. {_mend(self.path)}")
            if not self.damage:
                log.error("the store is damaged", reason=str(error))
            self.damage = str(error)
        return error


def _said(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)


def _mend(path: Path) -> str:
    return f"A restart alone does not mend it. Stop the server. {_MEND.format(name=path.name)}. Start the server."
