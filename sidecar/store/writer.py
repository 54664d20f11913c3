"""The writing side of the store: what the feed alone does."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidecar.domain.errors import StoreError
from sidecar.store.connections import Connections
from sidecar.store.rows import LoggedEvents, Row

# Only what can change is updated: the indexes over the rest are left alone.
_UPDATE = """ON CONFLICT (id) DO UPDATE SET
  t_run = excluded.t_run, state = excluded.state, result = excluded.result, queue = excluded.queue,
  nnodes = excluded.nnodes, ntasks = excluded.ntasks, runtime = excluded.runtime, nevents = excluded.nevents,
  brief = excluded.brief
"""
_COLUMNS = 15
_TOGETHER = 64  # rows in one statement
_DELETE = ("jobs WHERE id", "documents WHERE job", "jobs_text WHERE rowid", "jobspecs WHERE job", "keys WHERE job")
_UNSAFE = re.compile(r"[^0-9A-Za-z_-]")  # in the name of an instance, which becomes a part of a file's
_LONGEST = 64
_MOST_NAMES = 1000


class Writer(Connections):
    """What the feed alone does."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._hot: dict[int, tuple[float | None, bytes]] = {}  # documents that were read last
        self._hot_size = 0
        self._aside: Path | None = None

    async def begin_instance(self, identity: str) -> Path | None:
        """Make this the store of the instance ``identity``.

        A store that holds another instance's jobs (job ids start anew in every instance) is set aside, complete,
        under a name of its own. It is safe to ask again after an error.

        Returns:
            Where the other instance's store is now; None when nothing had to move.

        Raises:
            StoreError: it cannot be written or moved.
        """
        known = await self._change(self._identity)
        if known not in (None, identity):
            await self._set_aside(str(known))
        elif not self._readable.is_set():
            await self._resume()
        await self._change(lambda: self._identify(identity))
        aside, self._aside = self._aside, None
        return aside

    def _identity(self) -> str | None:
        row = self._writing().execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()
        return row[0] if row else None

    def _identify(self, identity: str) -> None:
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('instance', ?)", (identity,))

    async def _set_aside(self, known: str) -> None:
        """Move the file away and begin a new one; reads wait meanwhile."""
        self._readable.clear()
        try:
            await self._readers.run(self._close_readers)
            await self._change(lambda: self._move(known))
        finally:
            await self._resume()

    async def _resume(self) -> None:
        """Let reads go on, in the file that is there now."""
        await self._change(self._open_readers)
        self._hot.clear()
        self.revision += 1
        self._readable.set()

    def _move(self, known: str) -> None:
        """Rename the file, which must not be open elsewhere, and make a new one."""
        if self._write is not None:
            self._write.close()  # the last to close folds the write-ahead log into the file, which can then move alone
            self._write = None
        if self.path.with_name(f"{self.path.name}-wal").exists():
            raise StoreError(
                f"The store {self.path} holds another instance's jobs and cannot be set aside: another program has it "
                "open, or its disk is full. End that program, or free space."
            )
        self.path.rename(aside := self._free_name(known))
        self._aside = aside
        self._look()

    def _free_name(self, known: str) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{self.path.stem}.{stamp}.{_UNSAFE.sub('_', known)[:_LONGEST]}"
        for number in range(1, _MOST_NAMES):
            found = self.path.with_name(f"{name}{f'.{number}' if number > 1 else ''}{self.path.suffix}")
            if not found.exists():
                return found
        raise StoreError(f"The store {self.path} cannot be set aside: every name like {name} is taken.")

    async def write(
        self,
        rows: Sequence[Row],
        told: Sequence[LoggedEvents] = (),
        deleted: Sequence[int] = (),
        totals: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Insert or replace jobs and totals, append events, and delete some jobs, in one transaction.

        Raises:
            StoreError: nothing was written; the disk is full, perhaps.
        """
        await self._change(lambda: self._apply(rows, told, deleted, totals))
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
        told: Sequence[LoggedEvents],
        deleted: Sequence[int],
        totals: Sequence[tuple[str, str, str]],
    ) -> None:
        texts = [(row.id, row.text) for row in rows if row.text is not None]
        specs = [(row.id, row.jobspec) for row in rows if row.jobspec is not None]
        documents = [(row.id, row.t_run if row.state == "RUN" else None, row.json) for row in rows]
        keys = [(row.key[0], row.id, row.key[1]) for row in rows if row.key]
        with self._writing() as db:
            _insert(db, "INSERT INTO jobs", [row[:_COLUMNS] for row in rows], _UPDATE)
            _insert(db, "INSERT OR REPLACE INTO documents", documents)
            _insert(db, "INSERT OR REPLACE INTO jobs_text (rowid, text)", texts)
            _insert(db, "INSERT OR REPLACE INTO jobspecs", specs)
            # The first job of a key is the one that counts; only somebody else than this server can have made two.
            _insert(db, "INSERT OR IGNORE INTO keys", keys)
            # A commit that failed may have been carried out: to try again must not fail on what is there.
            _insert(db, "INSERT OR REPLACE INTO events", [_told(each) for each in told])
            _insert(db, "INSERT OR REPLACE INTO totals", totals)
            for sql in _DELETE:
                db.executemany(f"DELETE FROM {sql} = ?", [(fluid,) for fluid in deleted])  # noqa: S608 - fixed words
        self._measure()


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


def _told(told: LoggedEvents) -> tuple[int, int, int, bytes]:
    return told.position, told.job, told.count, told.json
