"""The store's file: the connection and thread that write, and access to those that read.

A read that an index answers within some tens of microseconds runs on the event loop: to hand it to a thread and back
costs ten times as much. Reads that may take longer (searches, counts) never run there, and the longest ones (exports)
have a thread of their own, so that pages do not wait for them. A disk that no longer responds is detected by the
writer: from then on no read runs on the event loop, and every read and the close have a timeout.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from sidecar.domain.errors import StoreError
from sidecar.runtime.threads import Workers
from sidecar.store import failures
from sidecar.store.lock import StoreLock
from sidecar.store.migration import Migration, Stopped
from sidecar.store.readers import Readers
from sidecar.store.retention import Gone, load
from sidecar.store.schema import CONVERTIBLE_VERSION, check, connect, inspect, size_of, version_of

T = TypeVar("T")
log = structlog.get_logger("store")

_SLOW = 1.0  # seconds after which a write may mean that the disk hangs
_READ_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 2.5  # a stop allows 3 s for this part
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Connections:
    """Run reads and writes on the store's file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = ""
        """Random ID of the file: positions of events are valid only with it."""
        self.position = 0
        """Position of the last event written."""
        self.revision = 0
        """Changes with every write: a result read at this revision is still valid."""
        self.gone = Gone()
        """What retention has removed."""
        self.size = 0
        """Size of the file and its write-ahead log at the last write or probe (bytes)."""
        self.lock = StoreLock(path)
        self._damage = ""
        self._writer = Workers(1, "store-writer")
        self._writing: sqlite3.Connection | None = None
        self._readers = Readers(path)
        self._readable = asyncio.Event()
        self._migration: Migration | None = None
        self._migrated: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Open the file for this server alone; create it if it does not exist.

        Of a file of an earlier version only the conversion is begun. Until :meth:`migrated` returns, reads raise
        StoreError with the progress, and writes wait.

        Raises:
            StoreError: the file is not a store of this version, is damaged, cannot be read or written, or is in use.
        """
        try:
            await self._writer.run(self._open)
        except (sqlite3.Error, OSError) as exc:
            raise failures.unopened(self.path, exc) from exc
        if self._migration:
            self._migrated = self._writer.run(self._migrate)
        else:
            self._readable.set()

    async def migrated(self) -> None:
        """Wait until a file of an earlier version is converted; return at once for any other.

        Raises:
            StoreError: it cannot be converted.
        """
        if self._migrated is None:
            return
        try:
            await self._migrated
        except Stopped:
            return
        except (sqlite3.Error, OSError) as exc:
            raise failures.unopened(self.path, exc) from exc
        self._migration = None
        self.revision += 1
        self._readable.set()

    def _open(self) -> None:
        inspect(self.path)
        self.lock.take()
        try:
            if version_of(self.path) == CONVERTIBLE_VERSION:
                self.lock.take_file()
                self._migration = Migration(self.path)
                self.id, self.position = self._migration.id, self._migration.position
                return
            self._load()
            check(self.path)
            self._readers.open()
        except BaseException:
            self._close_all()
            self.lock.release()
            raise

    def _migrate(self) -> None:
        """Convert the file in the writer's thread, so that writes wait for the new one."""
        if self._migration:
            self._migration.run()
            self._reopen()

    async def close(self) -> None:
        """Finish started writes and close the file; give up after a timeout, as the disk may hang."""
        if self._migration:
            self._migration.stop()
        self._readers.interrupt()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._readers.close_in_thread()
                await self._writer.run(self._close_all)
                self.lock.release()
        except TimeoutError:  # the lock stays until the process ends, since the hanging thread may still write
            log.error("the store does not respond and is not closed", path=str(self.path), seconds=_CLOSE_TIMEOUT)
        except sqlite3.Error as exc:
            log.error("the store cannot be closed properly", path=str(self.path), reason=str(exc))
        self._readers.close_threads()
        self._writer.close()

    def _writing_connection(self) -> sqlite3.Connection:
        """Return the connection that writes; for the writer's thread only."""
        if self._writing is None:
            self.lock.take_file()
            self._writing = connect(self.path)
        return self._writing

    def _close_all(self) -> None:
        self._readers.close()
        self._close_writing()

    def _close_writing(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def _load(self) -> None:
        """Read the name and the last position of the file, which is created if needed."""
        db = self._writing_connection()
        self.id = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0]
        self.gone = load(db)
        [last] = db.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
        self.position = max(last, self.gone.position)
        self.size = size_of(self.path)

    @property
    def readable(self) -> bool:
        """Whether reads run; otherwise they wait until the file was replaced."""
        return self._readable.is_set()

    async def suspend_reads(self) -> None:
        """Have new reads wait, and close the reading connections."""
        self._readable.clear()
        await self._readers.close_in_thread()

    async def resume_reads(self) -> None:
        """Continue with reads, of the file that is at the path now.

        Raises:
            StoreError: the file cannot be opened; reads still wait.
        """
        await self.run_in_writer(self._reopen)
        self.revision += 1
        self._readable.set()

    def _reopen(self) -> None:
        self._load()
        self._readers.open()

    def rename(self, choose_path: Callable[[], Path]) -> Path:
        """Rename the file; call this in the writer's thread, while reads are suspended.

        Args:
            choose_path: returns the new path.

        Returns:
            That path.

        Raises:
            StoreError: another program has the file open.
        """
        self._close_writing()  # closing the last connection checkpoints the write-ahead log
        if self.path.with_name(f"{self.path.name}-wal").exists():
            raise failures.in_use(self.path)
        self.path.rename(path := choose_path())
        return path

    @property
    def stuck(self) -> float:
        """Seconds that the writer's thread has spent in its current call; 0 if it is idle."""
        return self._writer.longest_call

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call a function with the connection that writes, in the writer's thread; see :meth:`run_in_writer`."""
        return await self.run_in_writer(lambda: self._write(work))

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        result = work(self._writing_connection())
        self.size = size_of(self.path)
        return result

    async def run_in_writer(self, work: Callable[[], T]) -> T:
        """Call a function in the writer's thread.

        Raises:
            StoreError: nothing was written, for example because the disk is full.
        """
        try:
            return await self._writer.run(work)
        except (sqlite3.DatabaseError, OSError) as exc:
            raise failures.unwritten(self.path, exc) from exc

    async def probe(self) -> None:
        """Check that the file can be written and is still at its path.

        Raises:
            StoreError: the check failed.
        """
        self._require_converted()

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('probed', strftime('%s', 'now'))")

        await self.write(work)
        if self._damage:
            raise StoreError(self._damage)
        try:
            replaced = await self._writer.run(lambda: self.lock.replaced)
        except OSError as exc:
            raise failures.unchecked(self.path, exc) from None
        if replaced:
            raise failures.replaced(self.path)

    async def fetch_inline(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Query on the event loop: only for a few rows that an index finds."""
        return await self.read_inline(lambda db: db.execute(sql, values).fetchall())

    async def read_inline(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Read on the event loop, or in a thread while the disk may hang or another program has locked the file."""
        if self._readable.is_set() and self._writer.longest_call < _SLOW:
            try:
                return self._readers.read_inline(read)
            except sqlite3.Error as exc:
                if exc.sqlite_errorcode not in _BUSY:
                    raise self._unreadable(exc) from exc
        return await self.read_in_thread(read)

    async def fetch_in_thread(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Query in a thread."""
        return await self.read_in_thread(lambda db: db.execute(sql, values).fetchall())

    async def read_in_thread(self, read: Callable[[sqlite3.Connection], T], *, export: bool = False) -> T:
        """Read in a thread, in that of exports if ``export`` is set.

        Raises:
            StoreError: the file cannot be read, or the disk does not respond.
        """
        self._require_converted()
        try:
            async with asyncio.timeout(_READ_TIMEOUT):
                await self._readable.wait()
                return await self._readers.read_in_thread(read, export=export)
        except TimeoutError:
            raise StoreError(f"The store {self.path} has not responded for {_READ_TIMEOUT:g} s.") from None
        except sqlite3.Error as exc:
            raise self._unreadable(exc) from exc

    def _require_converted(self) -> None:
        if self._migration:
            raise StoreError(str(self._migration))

    def _unreadable(self, exc: sqlite3.Error) -> StoreError:
        """Return the error of a read; remember damage, which only another file can repair."""
        error = failures.unreadable(self.path, exc)
        if failures.is_damage(exc):
            if not self._damage:
                log.error("the store is damaged", reason=str(error))
            self._damage = str(error)
        return error
