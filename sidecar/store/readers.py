"""The connections that read the store's file: one for the event loop, the others for threads."""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sidecar.runtime.threads import Workers
from sidecar.store.schema import open_file

T = TypeVar("T")

_THREADS = 2
_NO_WAIT = 0.0  # busy timeout on the event loop, while another program has locked the file (seconds)


class Readers:
    """Two threads for short reads, one for exports, and a connection for each.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = Workers(_THREADS, "store-reader")
        self._exports = Workers(1, "store-export")
        self._inline: sqlite3.Connection
        self._connections: list[sqlite3.Connection] = []
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()

    def open(self) -> None:
        """Open the connections."""
        self._inline = open_file(self._path, busy_timeout=_NO_WAIT)
        self._connections = [open_file(self._path) for _ in range(_THREADS + 1)]
        for db in self._connections:
            self._idle.put(db)

    def close(self) -> None:
        """Close the connections; one that a thread uses is closed after that read."""
        for _ in self._connections:
            self._idle.get().close()
        if self._connections:
            self._inline.close()
        self._connections = []

    def interrupt(self) -> None:
        """Abort the reads that run in threads."""
        for db in self._connections:
            db.interrupt()

    def read_inline(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Read on the event loop."""
        return read(self._inline)

    async def read_in_thread(self, read: Callable[[sqlite3.Connection], T], *, export: bool) -> T:
        """Read in a thread, in that of exports if ``export`` is set."""

        def work() -> T:
            db = self._idle.get()
            try:
                return read(db)
            finally:
                self._idle.put(db)

        return await (self._exports if export else self._threads).run(work)

    async def close_in_thread(self) -> None:
        """Close the connections after the reads that were started before."""
        await self._exports.run(lambda: None)
        await self._threads.run(self.close)

    def close_threads(self) -> None:
        """End the threads."""
        self._threads.close()
        self._exports.close()
