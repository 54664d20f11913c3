"""Progress of the feed, and a condition for what depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Progress:
    """Counters of journal items; :meth:`notify` after a change."""

    def __init__(self) -> None:
        self.received = 0
        """Number of items received from the instance."""
        self.stored = 0
        """Number of these that are in the store."""
        self.all_stored = True
        """Whether all received items are in the store, and published."""
        self.stopping = False
        """Whether the server stops, so that nothing waits any longer."""
        self._changed = asyncio.Condition()

    async def notify(self) -> None:
        """Have waiting coroutines check their predicates."""
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until a predicate is true."""
        async with self._changed:
            await self._changed.wait_for(predicate)
