"""Write jobs and events to the store, and start a new file for another instance."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from sidecar.domain.errors import StoreError
from sidecar.store.connections import Connections
from sidecar.store.documents import DocumentCache
from sidecar.store.inserts import write_batch
from sidecar.store.retention import Gone, remove
from sidecar.store.rows import LoggedEvents, Row

_UNSAFE = re.compile(r"[^0-9A-Za-z_-]")  # in an instance's identity, which becomes a part of a file name
_MAX_IDENTITY = 64
_MAX_NAMES = 1000


class Writer:
    """Change the store.

    Args:
        connections: of its file.
        documents: cache from which changed jobs are removed.
    """

    def __init__(self, connections: Connections, documents: DocumentCache) -> None:
        self._connections = connections
        self._documents = documents
        self._aside: Path | None = None

    async def begin_instance(self, identity: str) -> Path | None:
        """Make this the store of an instance.

        A store with another instance's jobs is set aside, complete, under a name of its own: job IDs restart in every
        instance. Repeating the call after an error is safe.

        Args:
            identity: of the instance, the same over its restarts.

        Returns:
            The path of the other instance's store; None if nothing was set aside.

        Raises:
            StoreError: the store cannot be written or renamed.
        """
        stored = await self._connections.write(_identity)
        if stored not in (None, identity):
            await self._set_aside(str(stored))
        elif not self._connections.readable:
            await self._resume()
        await self._connections.write(lambda db: _set_identity(db, identity))
        aside, self._aside = self._aside, None
        return aside

    async def _set_aside(self, identity: str) -> None:
        """Rename the file and create a new one; reads wait meanwhile."""

        def rename() -> None:
            self._aside = self._connections.rename(lambda: self._free_path(identity))

        try:
            await self._connections.suspend_reads()
            await self._connections.run_in_writer(rename)
        finally:
            await self._resume()

    async def _resume(self) -> None:
        await self._connections.resume_reads()
        self._documents.clear()

    def _free_path(self, identity: str) -> Path:
        path = self._connections.path
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{path.stem}.{stamp}.{_UNSAFE.sub('_', identity)[:_MAX_IDENTITY]}"
        for number in range(1, _MAX_NAMES):
            free = path.with_name(f"{name}{f'.{number}' if number > 1 else ''}{path.suffix}")
            if not free.exists():
                return free
        raise StoreError(f"The store {path} cannot be set aside: all names like {name} are taken. Delete some.")

    async def write(
        self,
        rows: Sequence[Row],
        logged: Sequence[LoggedEvents] = (),
        deleted: Sequence[int] = (),
        totals: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Insert or update jobs and totals, append events, and delete jobs, in one transaction.

        Args:
            rows: jobs.
            logged: events.
            deleted: IDs of jobs.
            totals: name, labels and value of metrics.

        Raises:
            StoreError: nothing was written, for example because the disk is full.
        """
        await self._connections.write(lambda db: write_batch(db, rows, logged, deleted, totals))
        self._connections.revision += 1
        if logged:
            self._connections.position = logged[-1].position
        for row in rows:
            self._documents.discard(row.id)
        for jobid in deleted:
            self._documents.discard(jobid)

    async def remove_ended(self, count: int, before: float | None) -> dict[int, str]:
        """Remove inactive jobs; see :meth:`sidecar.store.store.Store.remove_ended`."""
        jobs = await self._connections.write(lambda db: remove(db, count, before, self._announce))
        if jobs:
            self._connections.revision += 1
        for jobid in jobs:
            self._documents.discard(jobid)
        return jobs

    def _announce(self, gone: Gone) -> None:
        self._connections.gone = gone


def _identity(db: sqlite3.Connection) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()
    return row[0] if row else None


def _set_identity(db: sqlite3.Connection, identity: str) -> None:
    with db:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('instance', ?)", (identity,))
