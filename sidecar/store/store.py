"""The store of jobs and their events: reads of single jobs, and access to lists, counts and writes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from sidecar.store import eventlog, retention
from sidecar.store.connections import Connections
from sidecar.store.counts import Counts
from sidecar.store.damage import Damage
from sidecar.store.documents import Document, DocumentCache, running_job
from sidecar.store.lists import Lists
from sidecar.store.query import DOCUMENT, JOINED
from sidecar.store.rows import LoggedEvents, Row, StoredEvent
from sidecar.store.writer import Writer

_INT64 = 2**63 - 1
_DOCUMENT = f"SELECT {DOCUMENT} FROM {JOINED} WHERE id = ?"  # noqa: S608 - constants
_EVENTS = 1000  # rows of an eventlog that are read in one call


class Store:
    """All jobs and events, in one SQLite file. No method blocks the event loop for long.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.connections = Connections(path)
        self._documents = DocumentCache()
        self._writer = Writer(self.connections, self._documents)
        self._damage = Damage()
        self.lists = Lists(self.connections, self._damage)
        self.counts = Counts(self.connections)

    async def open(self) -> None:
        """Open the file; see :meth:`Connections.open`."""
        await self.connections.open()

    async def migrated(self) -> None:
        """Wait until a file of an earlier version is converted; see :meth:`Connections.migrated`."""
        await self.connections.migrated()

    async def close(self) -> None:
        """Close the file; see :meth:`Connections.close`."""
        await self.connections.close()

    async def probe(self) -> None:
        """Check that the file can be written; see :meth:`Connections.probe`."""
        await self.connections.probe()

    def note_address(self, address: str) -> None:
        """Write this server's address into the lock file, for the error of a second server."""
        self.connections.lock.note_holder(address)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.connections.path

    @property
    def id(self) -> str:
        """Random ID of the file: positions of events are valid only with it."""
        return self.connections.id

    @property
    def position(self) -> int:
        """Position of the last event."""
        return self.connections.position

    @property
    def revision(self) -> int:
        """Changes with every write: a result read at this revision is still valid."""
        return self.connections.revision

    @property
    def size(self) -> int:
        """Size of the file and its write-ahead log (bytes)."""
        return self.connections.size

    # ------------------------------------------------------------------------------------------------- writes

    async def begin_instance(self, identity: str) -> Path | None:
        """Make this the store of an instance; see :meth:`Writer.begin_instance`."""
        return await self._writer.begin_instance(identity)

    async def write(
        self,
        rows: Sequence[Row],
        logged: Sequence[LoggedEvents] = (),
        deleted: Sequence[int] = (),
        totals: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Write one transaction; see :meth:`Writer.write`."""
        await self._writer.write(rows, logged, deleted, totals)

    async def remove_ended(self, count: int, before: float | None = None) -> dict[int, str]:
        """Remove the inactive jobs that have ended first.

        Args:
            count: maximum number of jobs.
            before: only those that ended before this time (Unix seconds).

        Returns:
            The jobs, with their queue.

        Raises:
            StoreError: nothing was removed, for example because the disk is full.
        """
        return await self._writer.remove_ended(count, before)

    async def merge_texts(self, pages: int, *, begin: bool) -> bool:
        """Drop the texts of removed jobs from the text index; see :func:`sidecar.store.retention.merge_texts`."""
        return await self.connections.write(lambda db: retention.merge_texts(db, pages, begin=begin))

    async def checkpoint(self) -> bool:
        """Copy the write-ahead log into the file; see :func:`sidecar.store.retention.checkpoint`."""
        return await self.connections.write(retention.checkpoint)

    async def shrink(self, pages: int, spare: int) -> bool:
        """Cut free pages off the file; see :func:`sidecar.store.retention.shrink`."""
        return await self.connections.write(lambda db: retention.shrink(db, pages, spare))

    @property
    def gone(self) -> retention.Gone:
        """What :meth:`remove_ended` has removed so far."""
        return self.connections.gone

    # ------------------------------------------------------------------------------------------------ one job

    async def job(self, jobid: int) -> bytes | None:
        """Return the JSON of a job; None if it does not exist."""
        document = self._documents.get(jobid)
        if document is None:
            revision = self.revision
            document = await self.connections.read_inline(lambda db: self._document(db, _bounded(jobid)))
            if document is None:
                return None
            if revision == self.revision:  # otherwise it may be outdated: it was read in a thread
                self._documents.put(jobid, document)
        return running_job(document.json, document.running, time.time())

    def _document(self, db: sqlite3.Connection, jobid: int) -> Document | None:
        row = db.execute(_DOCUMENT, (jobid,)).fetchone()
        if row is None:
            return None
        _, cell, running = row
        return Document(running if isinstance(running, float) else None, self._damage.job(db, jobid, cell))

    async def state(self, jobid: int) -> str | None:
        """Return the state of a job; None if it does not exist."""
        rows = await self.connections.fetch_inline("SELECT state FROM jobs WHERE id = ?", (_bounded(jobid),))
        return rows[0][0] if rows else None

    async def state_and_position(self, jobid: int) -> tuple[str, int]:
        """Return the state of a job and the position of its last event; ("", 0) if it does not exist."""
        rows = await self.connections.fetch_inline(
            "SELECT state, (SELECT max(position) FROM events WHERE job = id) FROM jobs WHERE id = ?",
            (_bounded(jobid),),
        )
        return (rows[0][0], rows[0][1] or 0) if rows else ("", 0)

    async def submitter(self, jobid: int) -> str:
        """Return the name of the caller that submitted a job through this server; empty if there is none."""
        rows = await self.connections.fetch_inline("SELECT submitter FROM jobs WHERE id = ?", (_bounded(jobid),))
        return rows[0][0] if rows else ""

    async def jobspec(self, jobid: int) -> bytes | None:
        """Return the JSON of a job's jobspec, without its environment; None if the job does not exist."""
        sql = "SELECT CAST(json AS BLOB) FROM jobspecs WHERE job = ?"
        rows = await self.connections.fetch_inline(sql, (_bounded(jobid),))
        return (self._damage.json(rows[0][0], jobid, "jobspec") or b"{}") if rows else None

    async def record(self, jobid: int) -> tuple[bytes, bytes, int] | None:
        """Return what is needed to continue folding a job, except for its exceptions.

        Returns:
            The JSON of the job and of its jobspec, and the number of its events; None if it does not exist.
        """
        document = await self.connections.read_inline(lambda db: self._document(db, jobid))
        if document is None:
            return None
        [[nevents]] = await self.connections.fetch_inline("SELECT nevents FROM jobs WHERE id = ?", (jobid,))
        if not isinstance(nevents, int):
            sql = "SELECT coalesce(sum(count), 0) FROM events WHERE job = ?"
            [[nevents]] = await self.connections.fetch_in_thread(sql, (jobid,))
        return document.json, await self.jobspec(jobid) or b"{}", nevents

    async def job_of_key(self, key: str) -> tuple[int, str] | None:
        """Return the job that was submitted with an idempotency key, and the digest of its request."""
        rows = await self.connections.fetch_inline("SELECT job, digest FROM keys WHERE key = ?", (key,))
        return rows[0] if rows else None

    # ------------------------------------------------------------------------------------------------- events

    async def events_between(self, after: int, upto: int, limit: int, jobid: int | None = None) -> list[LoggedEvents]:
        """Return events in order, of all jobs or of one; only the first ones if they are large.

        Args:
            after: position of the last event before them.
            upto: position of the last one.
            limit: maximum number of rows.
            jobid: the job; None: all.
        """
        wanted = eventlog.Range(after, upto, limit, jobid)
        return await self.connections.read_in_thread(lambda db: eventlog.events_between(db, self._damage, wanted))

    async def eventlog(self, jobid: int) -> AsyncIterator[LoggedEvents]:
        """Yield a job's eventlog, row by row: it may be of any length."""
        after = 0
        while rows := await self.events_between(after, _INT64, _EVENTS, _bounded(jobid)):
            for each in rows:
                yield each
            after = rows[-1].position

    async def eventlog_ends(self, jobid: int, limit: int) -> tuple[list[StoredEvent], int, list[StoredEvent]]:
        """Return the first and last entries of a job's eventlog, with the number of those omitted in between.

        Args:
            jobid: the job.
            limit: number of each; an eventlog of up to twice as many is returned whole, as the first ones.
        """
        jobid = _bounded(jobid)
        return await self.connections.read_in_thread(lambda db: eventlog.ends(db, self._damage, jobid, limit))

    async def exceptions(self, jobid: int) -> list[StoredEvent]:
        """Return the first exception of each severity in a job's eventlog, the most severe one among them."""
        return await self.connections.read_in_thread(lambda db: eventlog.exceptions(db, self._damage, jobid))

    # ---------------------------------------------------------------------------------------------- instance

    async def instance(self) -> str:
        """Return the identity of the instance that the jobs belong to; empty in a new file."""
        rows = await self.connections.fetch_in_thread("SELECT value FROM meta WHERE key = 'instance'")
        return str(rows[0][0]) if rows else ""

    async def active_jobids(self) -> list[int]:
        """Return the IDs of the jobs that are not inactive."""
        rows = await self.connections.fetch_in_thread("SELECT id FROM jobs WHERE state != 'INACTIVE'")
        return [row[0] for row in rows]


def _bounded(jobid: int) -> int:
    """Return a job ID that SQLite can compare: its integers end at 2^63, and no real FLUID is that large."""
    return jobid if jobid < 2**63 else -1
