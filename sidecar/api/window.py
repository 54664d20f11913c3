"""Limit how many lines of a bulk submit are in flight to Flux: many while Flux is fast, few while it is slow.

Flux takes jobs in batches and is faster with larger ones. The lines in flight are ahead of all other requests, though,
and must be answered before their own timeout, so their number is limited to what Flux does in about a second.
"""

from __future__ import annotations

import asyncio

_FIRST = 256
_LEAST = 16
_FAST, _SLOW = 1.0, 2.0  # seconds from acquire to release


class AdaptiveLimit:
    """A semaphore with a size that follows the time for which its slots are held.

    Args:
        most: maximum size.
        bytes_: maximum size of all items together, in bytes; a larger item gets its slot alone.
    """

    def __init__(self, most: int, bytes_: int = 4 * 1024 * 1024) -> None:
        self._most = most
        self._most_bytes = bytes_
        self._bytes = 0
        self.size = min(most, _FIRST)
        self.in_use = 0
        """How many slots are taken."""
        self._free = asyncio.Event()

    async def acquire(self, size: int = 0) -> None:
        """Wait for a slot, and for room for an item of ``size`` bytes."""
        while self.in_use >= self.size or (self.in_use and self._bytes + size > self._most_bytes):
            self._free.clear()
            await self._free.wait()
        self.in_use += 1
        self._bytes += size

    def release(self, seconds: float, size: int = 0) -> None:
        """Return a slot that was held for some seconds, and the ``size`` bytes of its item."""
        self.in_use -= 1
        self._bytes -= size
        if seconds < _FAST:
            self.size = min(self._most, self.size + 1)
        elif seconds > _SLOW:
            self.size = max(min(self._most, _LEAST), self.size - 1)
        if self.in_use < self.size:
            self._free.set()
