"""How much of a long request is on its way into Flux at once: much where Flux is quick, little where it is not.

Flux takes jobs in batches, and is the quicker the more it is sent at once. What has been sent is ahead of everybody
else's requests, though, and must be answered before its own time-out: so it is kept to what Flux does in a moment.
"""

from __future__ import annotations

import asyncio

_FIRST = 256
_LEAST = 16
_QUICK, _SLOW = 1.0, 2.0  # seconds from in to out


class AdaptiveLimit:
    """Lets so many in at once, and finds out how many that should be.

    Args:
        most: how many at most.
        bytes_: how many bytes they may have together; one that is larger is let in alone.
    """

    def __init__(self, most: int, bytes_: int = 4 * 1024 * 1024) -> None:
        self._most = most
        self._most_bytes = bytes_
        self._bytes = 0
        self.size = min(most, _FIRST)
        self.inside = 0
        """How many are in."""
        self._free = asyncio.Event()

    async def enter(self, size: int = 0) -> None:
        """Wait for a place, and for room for so many bytes."""
        while self.inside >= self.size or (self.inside and self._bytes + size > self._most_bytes):
            self._free.clear()
            await self._free.wait()
        self.inside += 1
        self._bytes += size

    def leave(self, seconds: float, size: int = 0) -> None:
        """Give a place back, and say how long it was taken."""
        self.inside -= 1
        self._bytes -= size
        if seconds < _QUICK:
            self.size = min(self._most, self.size + 1)
        elif seconds > _SLOW:
            self.size = max(min(self._most, _LEAST), self.size - 1)
        if self.inside < self.size:
            self._free.set()
