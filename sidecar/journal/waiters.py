"""Who waits for what the feed has written: streams, long polls, and reads that are to find what was just submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from sidecar.journal.barrier import Barrier
from sidecar.journal.tail import Notifier, Tail
from sidecar.store import Store


class Waiters(Barrier):
    """Those who wait. :class:`~sidecar.feed.Feed` is built on this class, and tells it what is in the store."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.tail = Tail(store)
        """For who follows the events."""
        self._changes: dict[int, Notifier] = {}

    @contextmanager
    def change(self, fluid: int) -> Iterator[asyncio.Future[None]]:
        """Give a future that is done when something has happened to a job, and is in the store."""
        changes = self._changes.setdefault(fluid, Notifier())
        try:
            with changes.next() as future:
                yield future
        finally:
            if not changes and self._changes.get(fluid) is changes:
                del self._changes[fluid]

    def end_streams(self, reason: str, detail: str) -> None:
        """Give every stream its last event, and let go of all that wait: the server leaves."""
        self._leaving = True
        self.tail.close(reason, detail)
        self.release()

    def release(self) -> None:
        """Let everybody who waits for a job look again."""
        waiting, self._changes = self._changes, {}
        for changes in waiting.values():
            changes.wake()

    def _tell(self, fluid: int) -> None:
        """Note that what has happened to a job is in the store."""
        self._heard(fluid)
        if changes := self._changes.pop(fluid, None):
            changes.wake()
