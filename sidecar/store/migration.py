"""Convert a store of version 4: into a new file beside it, which takes its place when it is complete.

Until then the old file is only read. So a server that is killed meanwhile loses nothing, and the next one continues
with what the new file has, unless the old file has changed since. In the old file SQLite would keep the space of the
converted tables.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import structlog

from sidecar.domain import restored
from sidecar.domain.errors import StoreError
from sidecar.store.inserts import Cells, insert_jobs
from sidecar.store.packing import packed, packed_entries
from sidecar.store.rows import Row
from sidecar.store.schema import CONVERTIBLE_VERSION, create, open_file

log = structlog.get_logger("store")

_JOBS, _EVENTS = 256, 1024  # rows of one transaction
_LOGGED = 10.0  # seconds between two log lines about the progress
_NEEDED = 0.6  # of the size of the old file, for the new one
_SELECT_JOBS = """
SELECT jobs.id, t_submit, t_run, state, result, userid, username, submitter, queue, name, nnodes, ntasks, runtime,
  nevents, CAST(documents.json AS BLOB), c0, CAST(jobspecs.json AS BLOB)
FROM jobs LEFT JOIN documents ON documents.job = jobs.id LEFT JOIN jobs_text_content ON jobs_text_content.id = jobs.id
  LEFT JOIN jobspecs ON jobspecs.job = jobs.id WHERE jobs.id > ? ORDER BY jobs.id LIMIT ?
"""
_SELECT_EVENTS = """
SELECT position, job, count, CAST(json AS BLOB) FROM events WHERE position > ? ORDER BY position LIMIT ?
"""


class Stopped(Exception):
    """The server stops; the next one continues."""


class Migration:
    """The conversion of a file.

    Args:
        path: the file, which no other server uses.

    Raises:
        StoreError: too little space is free.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(f"{path.name}.new")
        self._stop = threading.Event()
        self._done = self._total = 0
        self._logged = time.monotonic()
        with closing(self._old()) as old:
            self.id = str(old.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0])
            self.position = int(old.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])
        needed, free = int(path.stat().st_size * _NEEDED), shutil.disk_usage(path.parent).free
        if free + (self._new.stat().st_size if self._new.exists() else 0) < needed:
            raise self._full(f"it needs about {(needed >> 20) + 1} MiB, and {free >> 20} are free")

    def __str__(self) -> str:
        """Return the progress for users."""
        percent = f"{100 * self._done // self._total} %" if self._total else "begun"
        return f"The store {self._path} is being converted for this version of the server: {percent}."

    def stop(self) -> None:
        """Have :meth:`run` end soon, from any thread."""
        self._stop.set()

    def run(self) -> None:
        """Convert the file, in the calling thread.

        Raises:
            Stopped: see :meth:`stop`.
            StoreError: the disk is full, or another program has the file open.
            sqlite3.Error, OSError: the old file cannot be read, or the new one not be written.
        """
        started = time.monotonic()
        try:
            with closing(self._old()) as old, closing(self._begun(old)) as new:
                self._copy(old, new)
                new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # the close would not raise its errors
            self._replace()
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            self._discard()  # otherwise the disk would stay full
            raise self._full("the disk is full") from exc
        seconds = round(time.monotonic() - started, 1)
        log.info("the store is converted", path=str(self._path), jobs=self._total, seconds=seconds)

    def _old(self) -> sqlite3.Connection:
        return open_file(self._path)

    def _begun(self, old: sqlite3.Connection) -> sqlite3.Connection:
        """Open the new file; start again unless it was begun from the old one as that is now."""
        stat = self._path.stat()
        source = f"{self.id} {self.position} {stat.st_size} {stat.st_mtime_ns}"
        if self._new.exists():
            with suppress(sqlite3.Error, TypeError):
                new = open_file(self._new)
                if new.execute("SELECT value FROM meta WHERE key = 'source'").fetchone()[0] == source:
                    return new
                new.close()
            self._discard()
        new = open_file(self._new)
        create(new, self.id)
        with new:
            new.execute("INSERT INTO meta VALUES ('source', ?)", (source,))
        return new

    def _copy(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        new.execute("PRAGMA wal_autocheckpoint = 8192")
        new.execute("PRAGMA cache_size = -16384")
        [self._total] = old.execute("SELECT count(*) FROM jobs").fetchone()
        [self._done] = new.execute("SELECT count(*) FROM jobs").fetchone()
        log.info("the store is being converted", path=str(self._path), jobs=self._total, done=self._done)
        [last] = new.execute("SELECT coalesce(max(id), -1) FROM jobs").fetchone()
        while rows := old.execute(_SELECT_JOBS, (last, _JOBS)).fetchall():
            with new:
                insert_jobs(new, [_cells(*row) for row in rows])
            last = rows[-1][0]
            self._advance(len(rows))
        [last] = new.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
        while rows := old.execute(_SELECT_EVENTS, (last, _EVENTS)).fetchall():
            with new:
                new.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", _packed_events(rows))
            last = rows[-1][0]
            self._advance(0)
        with new:
            new.executemany("INSERT OR IGNORE INTO totals VALUES (?, ?, ?)", old.execute("SELECT * FROM totals"))
            new.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?, ?)", old.execute("SELECT * FROM keys"))
            new.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", old.execute("SELECT * FROM meta"))
            new.execute("DELETE FROM meta WHERE key = 'source'")

    def _advance(self, jobs: int) -> None:
        self._done += jobs
        if self._stop.is_set():
            raise Stopped
        if time.monotonic() - self._logged > _LOGGED:
            self._logged = time.monotonic()
            log.info("the store is being converted", path=str(self._path), jobs=self._total, done=self._done)

    def _replace(self) -> None:
        """Put the new file in the place of the old one; both are closed, so that neither has a write-ahead log."""
        for path in (self._path, self._new):
            if path.with_name(f"{path.name}-wal").exists():
                raise StoreError(
                    f"The store {self._path} cannot be converted: another program has {path} open. End it."
                )
        self._new.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._new.with_name(f"{self._new.name}{suffix}").unlink(missing_ok=True)

    def _full(self, why: str) -> StoreError:
        return StoreError(
            f"The store {self._path} of version {CONVERTIBLE_VERSION} cannot be converted: {why}. It is unchanged. "
            "Free space there, or name another with --store."
        )


def _cells(jobid: int, *columns: object) -> Cells:
    """Return the cells of a job; what is damaged stays as it is."""
    *plain, document, text, spec = columns
    document, spec = bytes(document or b""), None if spec is None else bytes(spec)  # type: ignore[call-overload]
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    row = Row._make((jobid, *plain, document.decode(errors="replace"), text, spec, None))
    return Cells(row, _packed_object(document), None if spec is None else _packed_object(spec))


def _packed_object(json: bytes) -> bytes:
    return packed(json) if restored.is_whole(json) else json


def _packed_events(rows: list[tuple[int, int, int, bytes]]) -> Iterator[tuple[int, int, int, bytes]]:
    for position, jobid, count, json in rows:
        yield position, jobid, count, packed_entries([json])
